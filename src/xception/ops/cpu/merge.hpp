// How a block ends: normalization applied, an optional max pool, the skip connection added, an
// optional activation; one pass over memory each way.
#pragma once

#include "packing.hpp"
#include "parallel.hpp"

namespace XCEPTION_ISA {

using xception::MergeArguments;
using xception::MergeBackwardArguments;
using xception::MergeShape;

constexpr int64_t kMergeParts = 64;  // fixed, so that sums have the same order on any thread count

XCEPTION_INLINE int64_t merge_parts(int64_t rows) { return std::min(rows, kMergeParts); }

// One vector's worth of channels, or what is left of them at the end.
struct Lanes {
  int64_t channel;
  int count;
  Vector load(const float* from) const {
    return count == kLanes ? XCEPTION_ISA::load(from + channel)
                           : load_first(from + channel, count);
  }
  void store(float* to, Vector value) const {
    if (count == kLanes) {
      XCEPTION_ISA::store(to + channel, value);
    } else {
      store_first(to + channel, value, count);
    }
  }
};

template <typename Body>
XCEPTION_INLINE void for_lanes(int64_t channels, const Body& body) {
  int64_t channel = 0;
  for (; channel + kLanes <= channels; channel += kLanes) body(Lanes{channel, kLanes});
  if (channel < channels) body(Lanes{channel, static_cast<int>(channels - channel)});
}

// One pixel below a pool's kernel: where it lies, and its place in the kernel.
struct Tap {
  int64_t place;
  int number;
};
constexpr int kMostTaps = 81;

// The pixels of y that the output at (row, column) of a picture is the maximum of.
inline int taps_of_output(const MergeShape& s, int64_t picture, int64_t row, int64_t column,
                          Tap* taps) {
  int count = 0;
  for (int ky = 0; ky < s.kernel_h; ++ky) {
    const int64_t y = row * s.stride_h - s.pad_top + int64_t{ky} * s.dilation_h;
    if (y < 0 || y >= s.h) continue;
    for (int kx = 0; kx < s.kernel_w; ++kx) {
      const int64_t x = column * s.stride_w - s.pad_left + int64_t{kx} * s.dilation_w;
      if (x < 0 || x >= s.w) continue;
      taps[count++] = {((picture * s.h + y) * s.w + x) * s.c, ky * s.kernel_w + kx};
    }
  }
  return count;
}

// Ask for what the pool's next windows in a row will read: rows of the picture are far apart, which
// the machine's own prefetching does not follow.
XCEPTION_INLINE void prefetch_windows(const MergeShape& s, const float* y, int64_t picture, int64_t row,
                             int64_t column) {
  constexpr int64_t kFloatsAhead = 512;
  const int64_t ahead = divided(kFloatsAhead, s.stride_w * s.c);
  const int64_t x = (column + ahead) * s.stride_w - s.pad_left;
  if (x < 0 || x >= s.w) return;
  const int64_t floats = std::min<int64_t>(s.stride_w, s.w - x) * s.c;
  for (int ky = 0; ky < s.kernel_h; ++ky) {
    const int64_t below = row * s.stride_h - s.pad_top + int64_t{ky} * s.dilation_h;
    if (below < 0 || below >= s.h) continue;
    const float* from = y + ((picture * s.h + below) * s.w + x) * s.c;
    for (int64_t i = 0; i < floats; i += 16) __builtin_prefetch(from + i);
  }
}

// One axis of a pool, seen from a pixel of y: the outputs that it may be the maximum of.
struct Reach {
  int64_t output[9];
  int number[9];
  int count = 0;
  Reach(int64_t pixel, int kernel, int stride, int padding, int dilation, int64_t outputs) {
    for (int k = 0; k < kernel; ++k) {
      const int64_t from = pixel + padding - int64_t{k} * dilation;
      if (from < 0 || from % stride || from / stride >= outputs) continue;
      output[count] = from / stride;
      number[count++] = k;
    }
  }
};

// The outputs that pixel x of a row of y may be the maximum of.
inline int taps_of_pixel(const MergeShape& s, int64_t picture, const Reach& rows,
                         const Reach& columns, Tap* taps) {
  int count = 0;
  for (int r = 0; r < rows.count; ++r)
    for (int q = 0; q < columns.count; ++q)
      taps[count++] = {((picture * s.p + rows.output[r]) * s.q + columns.output[q]) * s.c,
                       rows.number[r] * s.kernel_w + columns.number[q]};
  return count;
}

// The greatest of y * scale + shift at the taps, and which one it is; the first one of equals, and
// NaN before anything, as in torch.
XCEPTION_INLINE Vector pooled(const float* y, const Tap* taps, int count, Lanes lanes, Vector scale,
                              Vector shift, Mask* winner) {
  Vector best = lanes.load(y + taps[0].place) * scale + shift;
  Mask place = Mask{} + taps[0].number;
  for (int k = 1; k < count; ++k) {
    const Vector value = lanes.load(y + taps[k].place) * scale + shift;
    const Mask wins = (value > best) | (value != value);
    best = wins ? value : best;
    place = wins ? Mask{} + taps[k].number : place;
  }
  *winner = place;
  return best;
}

template <Activation A>
void merge_rows(const MergeArguments& a, int64_t first, int64_t last) {
  const MergeShape& s = a.shape;
  Tap taps[kMostTaps];
  for (int64_t row = first; row < last; ++row)
    for (int64_t q = 0; q < s.q; ++q) {
      const int64_t place = (row * s.q + q) * s.c;
      int count = 0;
      if (a.winners) {
        prefetch_windows(s, a.y, row / s.p, row % s.p, q);
        count = taps_of_output(s, row / s.p, row % s.p, q, taps);
      }
      for_lanes(s.c, [&](Lanes lanes) {
        const Vector scale = lanes.load(a.scale), shift = lanes.load(a.shift);
        Vector value;
        if (a.winners) {
          Mask winner;
          value = pooled(a.y, taps, count, lanes, scale, shift, &winner);
          store_bytes(a.winners + place + lanes.channel, winner, lanes.count);
        } else {
          value = lanes.load(a.y + place) * scale + shift;
        }
        if (a.skip) {
          Vector skip = lanes.load(a.skip + place);
          if (a.skip_scale) skip = skip * lanes.load(a.skip_scale) + lanes.load(a.skip_shift);
          value += skip;
        }
        lanes.store(a.out + place, activate<A>(value));
      });
    }
}

inline int merge(const MergeArguments& a) {
  const int64_t rows = a.shape.n * a.shape.p, parts = merge_parts(rows);
  xception::parallel(static_cast<int>(parts), a.threads, [&](int part) {
    const int64_t first = part * rows / parts, last = (part + 1) * rows / parts;
    switch (a.shape.activation) {
      case Activation::kRelu: return merge_rows<Activation::kRelu>(a, first, last);
      case Activation::kRelu6: return merge_rows<Activation::kRelu6>(a, first, last);
      default: return merge_rows<Activation::kNone>(a, first, last);
    }
  });
  return 0;
}

// The gradient before the activation at one place of out.
template <Activation A>
XCEPTION_INLINE Vector gradient_at(const MergeBackwardArguments& a, int64_t place, Lanes lanes) {
  const Vector gradient = lanes.load(a.grad_out + place);
  if constexpr (A == Activation::kNone) return gradient;
  return activation_gradient<A>(gradient, lanes.load(a.out + place));
}

// The sum of the gradients of those outputs whose maximum lies at this pixel of y.
template <Activation A>
XCEPTION_INLINE Vector gradient_of_pixel(const MergeBackwardArguments& a, const Tap* taps,
                                         int count, Lanes lanes) {
  Vector sum{};
  for (int k = 0; k < count; ++k) {
    const Mask winner = load_bytes(a.winners + taps[k].place + lanes.channel, lanes.count);
    sum += winner == (Mask{} + taps[k].number) ? gradient_at<A>(a, taps[k].place, lanes) : Vector{};
  }
  return sum;
}

// A row's own sums, which are added to the part's when the row is done: nearer to the true sum.
struct RowSums {
  float* row;
  float* total;
  int64_t stride;
  void add(int which, Lanes lanes, Vector value) const {
    float* to = row + which * stride + lanes.channel;
    store(to, load(to) + value);
  }
  void finish() const {
    for (int64_t i = 0; i < 4 * stride; i += kLanes) {
      store(total + i, load(total + i) + load(row + i));
      store(row + i, Vector{});
    }
  }
};

// Sums are [4][stride]: gradients of scale, shift, skip_scale, skip_shift.
template <Activation A>
void merge_backward_rows(const MergeBackwardArguments& a, int64_t part, int64_t parts,
                         const RowSums& sums) {
  const MergeShape& s = a.shape;
  const int64_t y_rows = s.n * s.h, out_rows = s.n * s.p;
  Tap taps[kMostTaps];
  for (int64_t row = part * y_rows / parts; row < (part + 1) * y_rows / parts; ++row) {
    const Reach rows(row % s.h, s.kernel_h, s.stride_h, s.pad_top, s.dilation_h, s.p);
    for (int64_t x = 0; x < s.w; ++x) {
      const int64_t place = (row * s.w + x) * s.c;
      int count = 0;
      if (a.winners) {
        const Reach columns(x, s.kernel_w, s.stride_w, s.pad_left, s.dilation_w, s.q);
        count = taps_of_pixel(s, row / s.h, rows, columns, taps);
      }
      for_lanes(s.c, [&](Lanes lanes) {
        const Vector gradient = a.winners ? gradient_of_pixel<A>(a, taps, count, lanes)
                                          : gradient_at<A>(a, place, lanes);
        sums.add(0, lanes, gradient * lanes.load(a.y + place));
        sums.add(1, lanes, gradient);
        lanes.store(a.grad_y + place, gradient * lanes.load(a.scale));
      });
    }
    sums.finish();
  }
  if (!a.grad_skip && !a.grad_skip_scale) return;
  for (int64_t row = part * out_rows / parts; row < (part + 1) * out_rows / parts; ++row) {
    for (int64_t q = 0; q < s.q; ++q) {
      const int64_t place = (row * s.q + q) * s.c;
      for_lanes(s.c, [&](Lanes lanes) {
        Vector gradient = gradient_at<A>(a, place, lanes);
        if (a.grad_skip_scale) {
          sums.add(2, lanes, gradient * lanes.load(a.skip + place));
          sums.add(3, lanes, gradient);
          gradient *= lanes.load(a.skip_scale);
        }
        if (a.grad_skip) lanes.store(a.grad_skip + place, gradient);
      });
    }
    sums.finish();
  }
}

inline int merge_backward(const MergeBackwardArguments& a) {
  const MergeShape& s = a.shape;
  const int64_t parts = merge_parts(s.n * s.h);
  const int64_t sum_stride = (s.c + kLanes - 1) / kLanes * kLanes;
  Workspace& memory = call_workspace();
  const size_t part_floats = 8 * sum_stride;
  if (!memory.reserve(Workspace::rounded(parts * part_floats))) return 1;
  float* sums = memory.take(parts * part_floats);
  xception::parallel(static_cast<int>(parts), a.threads, [&](int part) {
    float* own = sums + part * part_floats;
    std::memset(own, 0, part_floats * sizeof(float));
    const RowSums row_sums{own + 4 * sum_stride, own, sum_stride};
    switch (s.activation) {
      case Activation::kRelu: return merge_backward_rows<Activation::kRelu>(a, part, parts, row_sums);
      case Activation::kRelu6:
        return merge_backward_rows<Activation::kRelu6>(a, part, parts, row_sums);
      default: return merge_backward_rows<Activation::kNone>(a, part, parts, row_sums);
    }
  });
  float* results[] = {a.grad_scale, a.grad_shift, a.grad_skip_scale, a.grad_skip_shift};
  for (int which = 0; which < 4; ++which) {
    if (!results[which]) continue;
    for (int64_t c = 0; c < s.c; ++c) {
      double total = 0.0;
      for (int64_t part = 0; part < parts; ++part)
        total += sums[part * part_floats + which * sum_stride + c];
      results[which][c] = static_cast<float>(total);
    }
  }
  return 0;
}

}  // namespace XCEPTION_ISA
