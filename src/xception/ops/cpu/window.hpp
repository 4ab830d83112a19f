// The spatial half, one panel of 32 channels at a time.
//
// A window is a piece of an activated picture with its zero padding written out, [rows][columns][32].
// Reading through it, no depthwise loop below knows of borders, strides of pictures or activations.
#pragma once

#include <algorithm>

#include "activation.hpp"
#include "shape.hpp"
#include "simd.hpp"

namespace XCEPTION_ISA {

using xception::UnitShape;

struct Window {
  float* data;
  int rows, columns;
  float* at(int row, int column) const {
    return data + (static_cast<size_t>(row) * columns + column) * kPanel;
  }
  Window from_row(int row) const { return {at(row, 0), rows - row, columns}; }
};

// Scale and shift of one panel, zero behind its last channel; ones and zeros where there are none.
struct PanelAffine {
  float scale[kPanel], shift[kPanel];
  PanelAffine(const float* scales, const float* shifts, int first, int channels) {
    for (int i = 0; i < kPanel; ++i) {
      scale[i] = i < channels ? (scales ? scales[first + i] : 1.0f) : 0.0f;
      shift[i] = i < channels && scales ? shifts[first + i] : 0.0f;
    }
  }
};

// The pixels of x that a window shows: its first one, and the steps from one to the next.
struct View {
  int64_t row, column;
  int step_h = 1, step_w = 1;
};

constexpr int kPixelsAhead = 8;

// Fill a window with activation(x * scale + shift) of one picture; zeros outside the picture.
// picture: (h, w, c) from the panel's first channel.
template <Activation A, bool HasAffine>
void fill_window(const float* picture, const UnitShape& s, const PanelAffine& affine, int channels,
                 const View& view, const Window& window) {
  // Columns first..last of the window lie inside the picture.
  const int64_t before = view.column < 0 ? (-view.column + view.step_w - 1) / view.step_w : 0;
  const int64_t inside = s.w > view.column ? (s.w - view.column - 1) / view.step_w + 1 : 0;
  const int first = static_cast<int>(std::min<int64_t>(before, window.columns));
  const int last = static_cast<int>(std::clamp<int64_t>(inside, first, window.columns));
  const int64_t step = view.step_w * s.c;
  for (int r = 0; r < window.rows; ++r) {
    float* to = window.at(r, 0);
    const int64_t y = view.row + int64_t{r} * view.step_h;
    if (y < 0 || y >= s.h) {
      std::memset(to, 0, sizeof(float) * kPanel * window.columns);
      continue;
    }
    std::memset(to, 0, sizeof(float) * kPanel * first);
    const float* from = picture + (y * s.w + view.column + int64_t{first} * view.step_w) * s.c;
    to += static_cast<size_t>(first) * kPanel;
    if (channels == kPanel) {
      for (int i = first; i < last; ++i, from += step, to += kPanel) {
        prefetch_panel(from + kPixelsAhead * step);
        for (int lane = 0; lane < kPanel; lane += kLanes) {
          Vector z = load(from + lane);
          if constexpr (HasAffine) z = z * load(affine.scale + lane) + load(affine.shift + lane);
          store(to + lane, activate<A>(z));
        }
      }
    } else {
      for (int i = first; i < last; ++i, from += step, to += kPanel)
        for (int lane = 0; lane < kPanel; lane += kLanes) {
          Vector z = load_of_panel(from, lane, channels);
          if constexpr (HasAffine) z = z * load(affine.scale + lane) + load(affine.shift + lane);
          store(to + lane, activate<A>(z));
        }
    }
    std::memset(to, 0, sizeof(float) * kPanel * (window.columns - last));
  }
}

using FillWindow = void (*)(const float*, const UnitShape&, const PanelAffine&, int, const View&,
                            const Window&);

inline FillWindow window_filler(Activation activation, bool has_affine) {
  switch (activation) {
    case Activation::kRelu:
      return has_affine ? fill_window<Activation::kRelu, true>
                        : fill_window<Activation::kRelu, false>;
    case Activation::kRelu6:
      return has_affine ? fill_window<Activation::kRelu6, true>
                        : fill_window<Activation::kRelu6, false>;
    case Activation::kHardswish:
      return has_affine ? fill_window<Activation::kHardswish, true>
                        : fill_window<Activation::kHardswish, false>;
    case Activation::kSilu:
      return has_affine ? fill_window<Activation::kSilu, true>
                        : fill_window<Activation::kSilu, false>;
    default:
      return has_affine ? fill_window<Activation::kNone, true>
                        : fill_window<Activation::kNone, false>;
  }
}

// Fills a window's rows shortly before they are read, so that they are still in the first cache.
class RowFiller {
 public:
  RowFiller(FillWindow fill, const float* picture, const UnitShape& s, const PanelAffine& affine,
            int channels, int64_t row, int64_t column, const Window& window)
      : fill_(fill), picture_(picture), s_(s), affine_(affine), channels_(channels), row_(row),
        column_(column), window_(window) {}

  // All rows before `end` are filled afterwards.
  void fill_until(int end) {
    if (end <= filled_) return;
    const Window part{window_.at(filled_, 0), end - filled_, window_.columns};
    fill_(picture_, s_, affine_, channels_, {row_ + filled_, column_}, part);
    filled_ = end;
  }

 private:
  FillWindow fill_;
  const float* picture_;
  const UnitShape& s_;
  const PanelAffine& affine_;
  int channels_;
  int64_t row_, column_;
  Window window_;
  int filled_ = 0;
};

// How the taps of a depthwise kernel lie in a window.
struct Taps {
  int rows, columns;             // of the kernel
  int stride_h, stride_w;        // window pixels from one output pixel to the next
  int dilation_h, dilation_w;    // and from one tap to the next
  bool dense3x3() const {
    return rows == 3 && columns == 3 && stride_w == 1 && dilation_h == 1 && dilation_w == 1;
  }
};

// `Pixels` neighbouring outputs of a 3x3 kernel of stride 1, one vector of channels.
template <int Pixels>
XCEPTION_INLINE void depthwise_3x3(const float* from, size_t row_stride, const float* taps_k,
                                   float* to) {
  Vector sum[Pixels];
  for (int p = 0; p < Pixels; ++p) sum[p] = Vector{};
#pragma GCC unroll 3
  for (int ky = 0; ky < 3; ++ky, from += row_stride, taps_k += 3 * kPanel) {
    Vector in[Pixels + 2];
    for (int i = 0; i < Pixels + 2; ++i) in[i] = load(from + i * kPanel);
#pragma GCC unroll 3
    for (int kx = 0; kx < 3; ++kx) {
      const Vector tap = load(taps_k + kx * kPanel);
      for (int p = 0; p < Pixels; ++p) sum[p] += in[p + kx] * tap;
    }
  }
  for (int p = 0; p < Pixels; ++p) store(to + p * kPanel, sum[p]);
}

// out[rows * columns][32]: the depthwise convolution of a window. taps_k: [kernel place][32].
inline void depthwise(const Window& window, const Taps& taps, const float* taps_k, int rows,
                      int columns, float* out) {
  const size_t row_stride = static_cast<size_t>(window.columns) * kPanel;
  if (taps.dense3x3()) {
    for (int lane = 0; lane < kPanel; lane += kLanes)
      for (int r = 0; r < rows; ++r) {
        const float* from = window.at(r * taps.stride_h, 0) + lane;
        float* to = out + static_cast<size_t>(r) * columns * kPanel + lane;
        int column = 0;
        for (; column + 4 <= columns; column += 4)
          depthwise_3x3<4>(from + column * kPanel, row_stride, taps_k + lane, to + column * kPanel);
        for (; column < columns; ++column)
          depthwise_3x3<1>(from + column * kPanel, row_stride, taps_k + lane, to + column * kPanel);
      }
    return;
  }
  for (int r = 0; r < rows; ++r)
    for (int column = 0; column < columns; ++column, out += kPanel) {
      const float* corner = window.at(r * taps.stride_h, column * taps.stride_w);
      for (int lane = 0; lane < kPanel; lane += kLanes) {
        Vector sum{};
        const float* tap = taps_k + lane;
        for (int ky = 0; ky < taps.rows; ++ky)
          for (int kx = 0; kx < taps.columns; ++kx, tap += kPanel)
            sum += load(tap) * load(corner + ky * taps.dilation_h * row_stride +
                                    kx * taps.dilation_w * kPanel + lane);
        store(out + lane, sum);
      }
    }
}

// taps_k[kernel place][32] += the sum over outputs of gradient * the window's value at that tap.
// Each row is summed by itself first: nearer to the true sum than one long chain.
inline void depthwise_gradient(const Window& window, const Taps& taps, const float* gradient,
                               int rows, int columns, float* taps_k) {
  const size_t row_stride = static_cast<size_t>(window.columns) * kPanel;
  if (taps.dense3x3()) {
    for (int lane = 0; lane < kPanel; lane += kLanes)
      for (int r = 0; r < rows; ++r) {
        const float* from = window.at(r * taps.stride_h, 0) + lane;
        const float* g = gradient + static_cast<size_t>(r) * columns * kPanel + lane;
        Vector sum[9];
        for (int k = 0; k < 9; ++k) sum[k] = Vector{};
        int column = 0;
        for (; column + 2 <= columns; column += 2, g += 2 * kPanel, from += 2 * kPanel) {
          const Vector g0 = load(g), g1 = load(g + kPanel);
#pragma GCC unroll 3
          for (int ky = 0; ky < 3; ++ky) {
            Vector in[4];
            for (int i = 0; i < 4; ++i) in[i] = load(from + ky * row_stride + i * kPanel);
#pragma GCC unroll 3
            for (int kx = 0; kx < 3; ++kx) {
              sum[ky * 3 + kx] += g0 * in[kx];
              sum[ky * 3 + kx] += g1 * in[kx + 1];
            }
          }
        }
        if (column < columns) {
          const Vector g0 = load(g);
#pragma GCC unroll 3
          for (int ky = 0; ky < 3; ++ky)
#pragma GCC unroll 3
            for (int kx = 0; kx < 3; ++kx)
              sum[ky * 3 + kx] += g0 * load(from + ky * row_stride + kx * kPanel);
        }
        for (int k = 0; k < 9; ++k) {
          float* to = taps_k + k * kPanel + lane;
          store(to, load(to) + sum[k]);
        }
      }
    return;
  }
  for (int ky = 0; ky < taps.rows; ++ky)
    for (int kx = 0; kx < taps.columns; ++kx, taps_k += kPanel)
      for (int lane = 0; lane < kPanel; lane += kLanes) {
        Vector total{};
        for (int r = 0; r < rows; ++r) {
          const float* g = gradient + static_cast<size_t>(r) * columns * kPanel + lane;
          const float* from =
              window.at(r * taps.stride_h + ky * taps.dilation_h, kx * taps.dilation_w) + lane;
          Vector sum{};
          for (int column = 0; column < columns; ++column)
            sum += load(g + column * kPanel) * load(from + column * taps.stride_w * kPanel);
          total += sum;
        }
        store(taps_k + lane, load(taps_k + lane) + total);
      }
}

}  // namespace XCEPTION_ISA
