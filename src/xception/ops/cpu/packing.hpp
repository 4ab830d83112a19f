// Weights in the order in which the kernels read them, and how a call is cut into pieces.
#pragma once

#include <algorithm>

#include "shape.hpp"
#include "window.hpp"
#include "workspace.hpp"

namespace XCEPTION_ISA {

XCEPTION_INLINE int panels_of(int64_t channels) {
  return static_cast<int>((channels + kPanel - 1) / kPanel);
}

XCEPTION_INLINE int channels_in(int64_t channels, int panel) {
  return static_cast<int>(std::min<int64_t>(kPanel, channels - int64_t{panel} * kPanel));
}

// Channels summed over: a multiple of 8, so that inner loops unroll; what is added reads zeros.
XCEPTION_INLINE int depth_of(int64_t channels) { return static_cast<int>((channels + 7) / 8 * 8); }

// One panel of outputs for `multiply`: to[c][32] from (o, c), zeros where there is no channel.
inline void pack_forward(const float* pointwise, const UnitShape& s, int panel, float* to) {
  const int outputs = channels_in(s.o, panel);
  const float* from = pointwise + static_cast<size_t>(panel) * kPanel * s.c;
  const int padded = panels_of(s.c) * kPanel;
  for (int c0 = 0; c0 < padded; c0 += 16) {
    float* block = to + static_cast<size_t>(c0) * kPanel;
    const int count = static_cast<int>(std::clamp<int64_t>(s.c - c0, 0, 16));
    if (count < 16 || outputs < kPanel) std::memset(block, 0, sizeof(float) * 16 * kPanel);
    for (int o = 0; o < outputs; ++o) {
      const float* row = from + static_cast<size_t>(o) * s.c + c0;
      for (int c = 0; c < count; ++c) block[c * kPanel + o] = row[c];
    }
  }
}

// One panel of inputs for the way back: to[o][32] from (o, c), zeros where there is no channel.
inline void pack_backward(const float* pointwise, const UnitShape& s, int panel, float* to) {
  const int inputs = channels_in(s.c, panel);
  const float* from = pointwise + static_cast<size_t>(panel) * kPanel;
  const int padded = panels_of(s.o) * kPanel;
  for (int o = 0; o < padded; ++o, to += kPanel, from += s.c)
    for (int lane = 0; lane < kPanel; lane += kLanes)
      store(to + lane, o < s.o ? load_of_panel(from, lane, inputs) : Vector{});
}

// One panel of depthwise kernels: to[k][32] from (c, k), turned around for the way back.
inline void pack_taps(const float* depthwise, const UnitShape& s, int panel, bool turned,
                      float* to) {
  const int count = s.kernel_h * s.kernel_w, channels = channels_in(s.c, panel);
  const float* from = depthwise + static_cast<size_t>(panel) * kPanel * count;
  for (int k = 0; k < count; ++k)
    for (int c = 0; c < kPanel; ++c)
      to[(turned ? count - 1 - k : k) * kPanel + c] = c < channels ? from[c * count + k] : 0.0f;
}

// What lies between the first and the last tap of a depthwise kernel, in pixels.
XCEPTION_INLINE int span_h(const UnitShape& s) { return (s.kernel_h - 1) * s.dilation_h; }
XCEPTION_INLINE int span_w(const UnitShape& s) { return (s.kernel_w - 1) * s.dilation_w; }

// Output rows that a panel's spatial steps go through together: enough pixels to be worth a call,
// few enough to stay in the first cache from one step to the next.
XCEPTION_INLINE int chunk_rows(const UnitShape& s, int columns) {
  return static_cast<int>(std::clamp<int64_t>(32 / columns, 1, s.p));
}

// Outputs worked on together: whole pictures, or rows of one, or a piece of some rows.
struct Tiling {
  int64_t pictures, rows, columns;         // of a tile, at most
  int64_t picture_tiles, row_tiles, column_tiles;
  int64_t count() const { return picture_tiles * row_tiles * column_tiles; }
  int64_t pixels() const { return pictures * rows * columns; }
};

XCEPTION_INLINE int64_t divided(int64_t total, int64_t part) { return (total + part - 1) / part; }

// Tiles of about `pixels` outputs, evenly cut; `whole_rows` forbids cutting rows.
inline Tiling cut(const UnitShape& s, int64_t pixels, bool whole_rows) {
  Tiling t{1, s.p, s.q, 1, 1, 1};
  const int64_t area = s.p * s.q;
  if (area * 2 <= pixels) {
    t.picture_tiles = divided(s.n, std::min(s.n, pixels / area));
    t.pictures = divided(s.n, t.picture_tiles);
    t.picture_tiles = divided(s.n, t.pictures);
    return t;
  }
  t.picture_tiles = s.n;
  if (!whole_rows && s.q >= pixels * 2) t.columns = divided(s.q, divided(s.q, pixels));
  t.column_tiles = divided(s.q, t.columns);
  const int64_t rows = std::clamp<int64_t>((pixels + t.columns / 2) / t.columns, 1, s.p);
  t.rows = divided(s.p, divided(s.p, rows));
  t.row_tiles = divided(s.p, t.rows);
  return t;
}

}  // namespace XCEPTION_ISA
