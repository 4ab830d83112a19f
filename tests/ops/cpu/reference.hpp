// What the kernels compute, as plain sums in double precision: nothing blocked, nothing reused.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <new>
#include <vector>

#include "shape.hpp"

namespace reference {

using xception::Activation;
using xception::MergeShape;
using xception::UnitShape;
using Doubles = std::vector<double>;

// On a cache line, as torch lays tensors, and no byte larger than asked for.
template <typename T>
struct OnCacheLine {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};
  OnCacheLine() = default;
  template <typename Other>
  OnCacheLine(const OnCacheLine<Other>&) {}
  T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kLine)); }
  void deallocate(T* block, size_t) { ::operator delete(block, kLine); }
  bool operator==(const OnCacheLine&) const { return true; }
  bool operator!=(const OnCacheLine&) const { return false; }
};
using Floats = std::vector<float, OnCacheLine<float>>;

inline double activated(Activation a, double z) {
  switch (a) {
    case Activation::kRelu: return std::max(z, 0.0);
    case Activation::kRelu6: return std::clamp(z, 0.0, 6.0);
    case Activation::kHardswish: return z * std::clamp(z + 3.0, 0.0, 6.0) / 6.0;
    case Activation::kSilu: return z / (1.0 + std::exp(-z));
    default: return z;
  }
}

inline double slope(Activation a, double z) {
  const double sigmoid = 1.0 / (1.0 + std::exp(-z));
  switch (a) {
    case Activation::kRelu: return z > 0.0 ? 1.0 : 0.0;
    case Activation::kRelu6: return z > 0.0 && z < 6.0 ? 1.0 : 0.0;
    case Activation::kHardswish: return z <= -3.0 ? 0.0 : z < 3.0 ? z / 3.0 + 0.5 : 1.0;
    case Activation::kSilu: return sigmoid * (1.0 + z * (1.0 - sigmoid));
    default: return 1.0;
  }
}

// Tensors of a unit; an empty one is not there.
struct UnitInputs {
  Floats x, in_scale, in_shift, depthwise, pointwise;
};

struct UnitOutputs {
  Doubles y, mean, squares;
};

struct UnitGradients {
  Doubles x, in_scale, in_shift, depthwise, pointwise;
};

// x * in_scale + in_shift at a place of x.
inline double before_activation(const UnitInputs& in, size_t place, int64_t c) {
  const double x = in.x[place];
  return in.in_scale.empty() ? x : x * in.in_scale[c] + in.in_shift[c];
}

// Calls visit(place in y's pixels, place in x, channel, kernel place) for all that meet.
template <typename Visit>
void for_taps(const UnitShape& s, const Visit& visit) {
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t p = 0; p < s.p; ++p)
      for (int64_t q = 0; q < s.q; ++q)
        for (int ky = 0; ky < s.kernel_h; ++ky)
          for (int kx = 0; kx < s.kernel_w; ++kx) {
            const int64_t h = p * s.stride_h - s.pad_top + ky * s.dilation_h;
            const int64_t w = q * s.stride_w - s.pad_left + kx * s.dilation_w;
            if (h < 0 || h >= s.h || w < 0 || w >= s.w) continue;
            for (int64_t c = 0; c < s.c; ++c)
              visit((n * s.p + p) * s.q + q, ((n * s.h + h) * s.w + w) * s.c + c, c,
                    ky * s.kernel_w + kx);
          }
}

inline double tap(const UnitShape& s, const UnitInputs& in, int64_t c, int k) {
  return in.depthwise.empty() ? 1.0 : in.depthwise[c * s.kernel_h * s.kernel_w + k];
}

// The depthwise step's results, (n, p, q, c).
inline Doubles hidden(const UnitShape& s, const UnitInputs& in) {
  Doubles out(s.n * s.p * s.q * s.c);
  for_taps(s, [&](int64_t pixel, size_t place, int64_t c, int k) {
    out[pixel * s.c + c] +=
        tap(s, in, c, k) * activated(s.activation, before_activation(in, place, c));
  });
  return out;
}

inline UnitOutputs unit(const UnitShape& s, const UnitInputs& in) {
  const Doubles filtered = hidden(s, in);
  const int64_t pixels = s.n * s.p * s.q;
  UnitOutputs out{Doubles(pixels * s.o), Doubles(s.o), Doubles(s.o)};
  for (int64_t m = 0; m < pixels; ++m)
    for (int64_t o = 0; o < s.o; ++o) {
      double sum = in.pointwise.empty() ? filtered[m * s.c + o] : 0.0;
      for (int64_t c = 0; c < s.c && !in.pointwise.empty(); ++c)
        sum += in.pointwise[o * s.c + c] * filtered[m * s.c + c];
      out.y[m * s.o + o] = sum;
      out.mean[o] += sum / pixels;
    }
  for (int64_t m = 0; m < pixels; ++m)
    for (int64_t o = 0; o < s.o; ++o)
      out.squares[o] += std::pow(out.y[m * s.o + o] - out.mean[o], 2);
  return out;
}

// grad_y: the whole gradient that arrives at y, (n, p, q, o).
inline UnitGradients unit_backward(const UnitShape& s, const UnitInputs& in,
                                   const Doubles& grad_y) {
  const Doubles filtered = hidden(s, in);
  UnitGradients out{Doubles(in.x.size()), Doubles(s.c), Doubles(s.c),
                    Doubles(in.depthwise.size()), Doubles(in.pointwise.size())};
  Doubles grad_hidden(filtered.size());
  if (in.pointwise.empty()) grad_hidden = grad_y;
  for (int64_t m = 0; m < s.n * s.p * s.q && !in.pointwise.empty(); ++m)
    for (int64_t o = 0; o < s.o; ++o)
      for (int64_t c = 0; c < s.c; ++c) {
        grad_hidden[m * s.c + c] += grad_y[m * s.o + o] * in.pointwise[o * s.c + c];
        out.pointwise[o * s.c + c] += grad_y[m * s.o + o] * filtered[m * s.c + c];
      }
  for_taps(s, [&](int64_t pixel, size_t place, int64_t c, int k) {
    const double gradient = grad_hidden[pixel * s.c + c], z = before_activation(in, place, c);
    if (!in.depthwise.empty())
      out.depthwise[c * s.kernel_h * s.kernel_w + k] += gradient * activated(s.activation, z);
    const double before = gradient * tap(s, in, c, k) * slope(s.activation, z);
    out.x[place] += before * (in.in_scale.empty() ? 1.0 : in.in_scale[c]);
    out.in_scale[c] += before * in.x[place];
    out.in_shift[c] += before;
  });
  return out;
}

struct MergeInputs {
  Floats y, scale, shift, skip, skip_scale, skip_shift;
};

struct MergeOutputs {
  Doubles out;
  std::vector<size_t> winners;  // place in y of each maximum
};

inline MergeOutputs merge(const MergeShape& s, const MergeInputs& in) {
  MergeOutputs result{Doubles(s.n * s.p * s.q * s.c), std::vector<size_t>(s.n * s.p * s.q * s.c)};
  const int kernel_h = std::max(s.kernel_h, 1), kernel_w = std::max(s.kernel_w, 1);
  for (size_t place = 0; place < result.out.size(); ++place) {
    const int64_t c = place % s.c, q = place / s.c % s.q, p = place / s.c / s.q % s.p;
    const int64_t n = place / s.c / s.q / s.p;
    double best = -INFINITY;
    for (int ky = 0; ky < kernel_h; ++ky)
      for (int kx = 0; kx < kernel_w; ++kx) {
        const int64_t h = p * s.stride_h - s.pad_top + ky * s.dilation_h;
        const int64_t w = q * s.stride_w - s.pad_left + kx * s.dilation_w;
        if (h < 0 || h >= s.h || w < 0 || w >= s.w) continue;
        const size_t from = ((n * s.h + h) * s.w + w) * s.c + c;
        const double value = double{in.y[from]} * in.scale[c] + in.shift[c];
        if (value <= best) continue;
        best = value;
        result.winners[place] = from;
      }
    if (!in.skip.empty()) {
      const double skip = in.skip[place];
      best += in.skip_scale.empty() ? skip : skip * in.skip_scale[c] + in.skip_shift[c];
    }
    result.out[place] = activated(s.activation, best);
  }
  return result;
}

struct MergeGradients {
  Doubles y, scale, shift, skip, skip_scale, skip_shift;
};

inline MergeGradients merge_backward(const MergeShape& s, const MergeInputs& in,
                                     const MergeOutputs& forward, const Floats& grad_out) {
  MergeGradients g{Doubles(in.y.size()), Doubles(s.c), Doubles(s.c), Doubles(in.skip.size()),
                   Doubles(s.c), Doubles(s.c)};
  for (size_t place = 0; place < grad_out.size(); ++place) {
    const int64_t c = place % s.c;
    const size_t from = forward.winners[place];
    // Of "none", "relu" and "relu6" the slope follows from the result.
    const double gradient = grad_out[place] * slope(s.activation, forward.out[place]);
    g.y[from] += gradient * in.scale[c];
    g.scale[c] += gradient * in.y[from];
    g.shift[c] += gradient;
    if (in.skip.empty()) continue;
    g.skip[place] = gradient * (in.skip_scale.empty() ? 1.0 : in.skip_scale[c]);
    g.skip_scale[c] += gradient * in.skip[place];
    g.skip_shift[c] += gradient;
  }
  return g;
}

}  // namespace reference
