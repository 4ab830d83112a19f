// The depthwise convolution of a window, and the gradient of its taps; 32 channels at a time.
//
// Kernels of 3x3, 5x5 and 7x7 without gaps have loops in which neighbouring outputs share what they
// read; one loop serves all others. taps_k is [place in the kernel][32]; lanes: see `lanes_of`.
#pragma once

#include <type_traits>

#include "window.hpp"

namespace XCEPTION_ISA {

// How the taps of a depthwise kernel lie in a window.
struct Taps {
  int rows, columns;             // of the kernel
  int stride_h, stride_w;        // window pixels from one output pixel to the next
  int dilation_h, dilation_w;    // and from one tap to the next
  bool is_dense(int size) const {
    return rows == size && columns == size && stride_w == 1 && dilation_h == 1 && dilation_w == 1;
  }
};

// `Pixels` neighbouring outputs of a dense kernel, one vector of channels.
template <int Size, int Pixels>
XCEPTION_INLINE void filter_dense(const float* from, size_t row_stride, const float* taps_k,
                                  float* to) {
  Vector sum[Pixels];
  for (int p = 0; p < Pixels; ++p) sum[p] = Vector{};
#pragma GCC unroll 3
  for (int ky = 0; ky < Size; ++ky, from += row_stride, taps_k += Size * kPanel) {
    Vector in[Pixels + Size - 1];
#pragma GCC unroll 16
    for (int i = 0; i < Pixels + Size - 1; ++i) in[i] = load(from + i * kPanel);
#pragma GCC unroll 8
    for (int kx = 0; kx < Size; ++kx) {
      const Vector tap = load(taps_k + kx * kPanel);
      for (int p = 0; p < Pixels; ++p) sum[p] += in[p + kx] * tap;
    }
  }
  for (int p = 0; p < Pixels; ++p) store(to + p * kPanel, sum[p]);
}

// The same for any kernel; `from` is the first output's first tap.
template <int Pixels>
XCEPTION_INLINE void filter_spaced(const float* from, size_t row_stride, const Taps& taps,
                                   const float* taps_k, float* to) {
  const size_t pixel_step = static_cast<size_t>(taps.stride_w) * kPanel;
  const size_t tap_step = static_cast<size_t>(taps.dilation_w) * kPanel;
  Vector sum[Pixels];
  for (int p = 0; p < Pixels; ++p) sum[p] = Vector{};
  for (int ky = 0; ky < taps.rows; ++ky, from += taps.dilation_h * row_stride) {
    const float* at = from;
    for (int kx = 0; kx < taps.columns; ++kx, at += tap_step, taps_k += kPanel) {
      const Vector tap = load(taps_k);
      for (int p = 0; p < Pixels; ++p) sum[p] += load(at + p * pixel_step) * tap;
    }
  }
  for (int p = 0; p < Pixels; ++p) store(to + p * kPanel, sum[p]);
}

// All outputs of a window: filter(number, from, taps_k, to) makes `number` neighbours, a constant.
template <typename Filter>
XCEPTION_INLINE void each_output(const Window& window, const Taps& taps, const float* taps_k,
                                 int lanes, int rows, int columns, float* out,
                                 const Filter& filter) {
  const size_t pixel_step = static_cast<size_t>(taps.stride_w) * kPanel;
  for (int lane = 0; lane < lanes; lane += kLanes)
    for (int r = 0; r < rows; ++r) {
      const float* from = window.at(r * taps.stride_h, 0) + lane;
      float* to = out + static_cast<size_t>(r) * columns * kPanel + lane;
      int column = 0;
      for (; column + 4 <= columns; column += 4)
        filter(std::integral_constant<int, 4>(), from + column * pixel_step, taps_k + lane,
               to + column * kPanel);
      for (; column < columns; ++column)
        filter(std::integral_constant<int, 1>(), from + column * pixel_step, taps_k + lane,
               to + column * kPanel);
    }
}

template <int Size>
void depthwise_dense(const Window& window, const Taps& taps, const float* taps_k, int lanes,
                     int rows, int columns, float* out) {
  const size_t row_stride = static_cast<size_t>(window.columns) * kPanel;
  each_output(window, taps, taps_k, lanes, rows, columns, out,
              [=](auto number, const float* from, const float* taps_lane, float* to) {
                filter_dense<Size, decltype(number)::value>(from, row_stride, taps_lane, to);
              });
}

// out[rows * columns][32]
inline void depthwise(const Window& window, const Taps& taps, const float* taps_k, int lanes,
                      int rows, int columns, float* out) {
  if (taps.is_dense(3)) return depthwise_dense<3>(window, taps, taps_k, lanes, rows, columns, out);
  if (taps.is_dense(5)) return depthwise_dense<5>(window, taps, taps_k, lanes, rows, columns, out);
  if (taps.is_dense(7)) return depthwise_dense<7>(window, taps, taps_k, lanes, rows, columns, out);
  const size_t row_stride = static_cast<size_t>(window.columns) * kPanel;
  each_output(window, taps, taps_k, lanes, rows, columns, out,
              [&](auto number, const float* from, const float* taps_lane, float* to) {
                filter_spaced<decltype(number)::value>(from, row_stride, taps, taps_lane, to);
              });
}

// `Rows` rows of a dense kernel's taps, one vector of channels: += gradient * what each tap met in a
// row of outputs, summed by itself first. from: what the first output's first tap met.
template <int Size, int Rows>
XCEPTION_INLINE void add_dense_gradient(const float* from, size_t row_stride, const float* gradient,
                                        int columns, float* taps_k) {
  Vector sum[Rows * Size];
  for (int k = 0; k < Rows * Size; ++k) sum[k] = Vector{};
  int column = 0;
  for (; column + 2 <= columns; column += 2, gradient += 2 * kPanel, from += 2 * kPanel) {
    const Vector g0 = load(gradient), g1 = load(gradient + kPanel);
#pragma GCC unroll 8
    for (int ky = 0; ky < Rows; ++ky) {
      Vector in[Size + 1];
#pragma GCC unroll 8
      for (int i = 0; i < Size + 1; ++i) in[i] = load(from + ky * row_stride + i * kPanel);
#pragma GCC unroll 8
      for (int kx = 0; kx < Size; ++kx) {
        sum[ky * Size + kx] += g0 * in[kx];
        sum[ky * Size + kx] += g1 * in[kx + 1];
      }
    }
  }
  if (column < columns) {
    const Vector g0 = load(gradient);
#pragma GCC unroll 8
    for (int ky = 0; ky < Rows; ++ky)
#pragma GCC unroll 8
      for (int kx = 0; kx < Size; ++kx)
        sum[ky * Size + kx] += g0 * load(from + ky * row_stride + kx * kPanel);
  }
  for (int k = 0; k < Rows * Size; ++k) {
    float* to = taps_k + k * kPanel;
    store(to, load(to) + sum[k]);
  }
}

// Rows: as many of the kernel's as there are registers for sums.
template <int Size, int Rows>
void dense_gradient(const Window& window, const Taps& taps, const float* gradient, int lanes,
                    int rows, int columns, float* taps_k) {
  const size_t row_stride = static_cast<size_t>(window.columns) * kPanel;
  for (int lane = 0; lane < lanes; lane += kLanes)
    for (int r = 0; r < rows; ++r)
      for (int ky = 0; ky < Size; ky += Rows)
        add_dense_gradient<Size, Rows>(window.at(r * taps.stride_h + ky, 0) + lane, row_stride,
                                       gradient + static_cast<size_t>(r) * columns * kPanel + lane,
                                       columns, taps_k + ky * Size * kPanel + lane);
}

// taps_k[kernel place][32] += the sum over outputs of gradient * the window's value at that tap.
// Each row is summed by itself first: nearer to the true sum than one long chain.
inline void depthwise_gradient(const Window& window, const Taps& taps, const float* gradient,
                               int lanes, int rows, int columns, float* taps_k) {
  if (taps.is_dense(3)) return dense_gradient<3, 3>(window, taps, gradient, lanes, rows, columns, taps_k);
  if (taps.is_dense(5)) return dense_gradient<5, 1>(window, taps, gradient, lanes, rows, columns, taps_k);
  if (taps.is_dense(7)) return dense_gradient<7, 1>(window, taps, gradient, lanes, rows, columns, taps_k);
  constexpr int kChains = 4;  // one addition after the other waits for each
  const size_t pixel_step = static_cast<size_t>(taps.stride_w) * kPanel;
  for (int ky = 0; ky < taps.rows; ++ky)
    for (int kx = 0; kx < taps.columns; ++kx, taps_k += kPanel)
      for (int lane = 0; lane < lanes; lane += kLanes) {
        Vector total{};
        for (int r = 0; r < rows; ++r) {
          const float* g = gradient + static_cast<size_t>(r) * columns * kPanel + lane;
          const float* from =
              window.at(r * taps.stride_h + ky * taps.dilation_h, kx * taps.dilation_w) + lane;
          Vector sum[kChains];
          for (int i = 0; i < kChains; ++i) sum[i] = Vector{};
          int column = 0;
          for (; column + kChains <= columns; column += kChains)
            for (int i = 0; i < kChains; ++i)
              sum[i] += load(g + (column + i) * kPanel) * load(from + (column + i) * pixel_step);
          for (; column < columns; ++column)
            sum[0] += load(g + column * kPanel) * load(from + column * pixel_step);
          total += (sum[0] + sum[1]) + (sum[2] + sum[3]);
        }
        store(taps_k + lane, load(taps_k + lane) + total);
      }
}

}  // namespace XCEPTION_ISA
