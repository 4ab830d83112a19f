// Forward: the depthwise step is the packing of the pointwise product's left factor, and the
// statistics of its result are taken while it is still in the cache.
//
// A part is a tile of output pixels times a range of output panels. For it, every input panel is
// activated into a window, filtered, and left as a panel matrix; then each output panel is
// multiplied out into a small block, from which y and the tile's mean and squares are written.
#pragma once

#include <atomic>
#include <vector>

#include "depthwise.hpp"
#include "gemm.hpp"
#include "packing.hpp"
#include "parallel.hpp"

namespace XCEPTION_ISA {

using xception::ForwardArguments;

constexpr int64_t kForwardFloats = 64 * 1024;  // of the left factor: a quarter of a large L2
constexpr int64_t kLeastPixels = 96, kMostPixels = 512;

struct ForwardPlan {
  explicit ForwardPlan(const ForwardArguments& arguments)
      : a(arguments), s(arguments.shape), input_panels(panels_of(s.c)),
        output_panels(panels_of(s.o)), has_depthwise(a.depthwise), has_pointwise(a.pointwise) {
    const int64_t wanted = has_pointwise ? kForwardFloats / (int64_t{input_panels} * kPanel) : 256;
    tiling = cut(s, std::clamp(wanted, kLeastPixels, kMostPixels), false);
    // Few tiles and many outputs: threads share a tile, each with some of its output panels.
    const int64_t tiles = tiling.count();
    groups = tiles >= 2 * a.threads
                 ? 1
                 : static_cast<int>(std::min<int64_t>(output_panels, divided(2 * a.threads, tiles)));
    taps = {has_depthwise ? s.kernel_h : 1, has_depthwise ? s.kernel_w : 1,
            s.stride_h, s.stride_w, s.dilation_h, s.dilation_w};
    window_rows = static_cast<int>((tiling.rows - 1) * s.stride_h + span_h(s) + 1);
    window_columns = static_cast<int>((tiling.columns - 1) * s.stride_w + span_w(s) + 1);
    past_caches = goes_past_caches(a.y, s.n * s.p * s.q * s.o, s.o);
  }

  const ForwardArguments& a;
  const UnitShape& s;
  int input_panels, output_panels;
  bool has_depthwise, has_pointwise;
  Tiling tiling;
  int groups;  // of output panels
  Taps taps;
  int window_rows, window_columns;
  bool past_caches;  // how y is stored
  const float* weights = nullptr;  // [output panel][c][32]
  const float* taps_k = nullptr;   // [input panel][k][32]
  float* means = nullptr;          // [tile][output panels * 32]
  float* squares = nullptr;
};

struct Tile {
  int64_t first_picture, pictures, row, rows, column, columns;
  int pixels() const { return static_cast<int>(pictures * rows * columns); }
};

inline Tile tile_at(const Tiling& t, const UnitShape& s, int64_t index) {
  const int64_t column = index % t.column_tiles * t.columns;
  const int64_t row = index / t.column_tiles % t.row_tiles * t.rows;
  const int64_t picture = index / t.column_tiles / t.row_tiles * t.pictures;
  return {picture, std::min(t.pictures, s.n - picture), row, std::min(t.rows, s.p - row),
          column,  std::min(t.columns, s.q - column)};
}

// left[pixels of the tile][32]: activated and filtered inputs of one panel.
inline void filter_panel(const ForwardPlan& plan, const Tile& tile, int panel, FillWindow fill,
                         float* window_data, float* left) {
  const UnitShape& s = plan.s;
  const int channels = channels_in(s.c, panel);
  const PanelAffine affine(plan.a.in_scale, plan.a.in_shift, panel * kPanel, channels);
  const int64_t row = tile.row * s.stride_h - s.pad_top;
  const int64_t column = tile.column * s.stride_w - s.pad_left;
  const int rows = static_cast<int>(tile.rows), columns = static_cast<int>(tile.columns);
  for (int64_t i = 0; i < tile.pictures; ++i, left += tile.rows * tile.columns * kPanel) {
    const float* picture =
        plan.a.x + (tile.first_picture + i) * s.h * s.w * s.c + int64_t{panel} * kPanel;
    if (!plan.has_depthwise) {
      fill(picture, s, affine, channels, {row, column, s.stride_h, s.stride_w},
           {left, rows, columns});
      continue;
    }
    const Window window{window_data, (rows - 1) * s.stride_h + span_h(s) + 1,
                        (columns - 1) * s.stride_w + span_w(s) + 1};
    RowFiller filler(fill, picture, s, affine, channels, row, column, window);
    const int chunk = chunk_rows(s, columns);
    for (int first = 0; first < rows; first += chunk) {
      const int count = std::min(chunk, rows - first);
      filler.fill_until((first + count - 1) * s.stride_h + span_h(s) + 1);
      depthwise(window.from_row(first * s.stride_h), plan.taps,
                plan.taps_k +
                    static_cast<size_t>(panel) * plan.taps.rows * plan.taps.columns * kPanel,
                lanes_of(channels), count, columns, left + static_cast<size_t>(first) * columns * kPanel);
    }
  }
}

// Mean of each channel of block[pixels][32], and the sum of squared distances from it.
//
// Some pixels at a time: first how far their mean lies from the first of them, then the distances
// from that mean. So nothing is lost where the mean is large (values are never summed themselves)
// or one pixel lies far off (squares are never subtracted). Groups are merged as tiles are (Chan).
inline void panel_statistics(const float* block, int channels, int pixels, float* mean,
                             float* squares) {
  constexpr int kGroup = 64;
  for (int lane = 0; lane < channels; lane += kLanes) {
    Vector total_mean{}, total_squares{};
    for (int first = 0; first < pixels; first += kGroup) {
      const int count = std::min(kGroup, pixels - first);
      const float* from = block + static_cast<size_t>(first) * kPanel + lane;
      const float seen = static_cast<float>(first), own = static_cast<float>(count);
      const Vector pivot = load(from);
      Vector sum{}, sum_of_squares{};
      for (int m = 0; m < count; ++m) sum += load(from + m * kPanel) - pivot;
      const Vector from_pivot = sum * broadcast(1.0f / own);
      for (int m = 0; m < count; ++m) {
        const Vector distance = (load(from + m * kPanel) - pivot) - from_pivot;
        sum_of_squares += distance * distance;
      }
      const Vector delta = (pivot - total_mean) + from_pivot;
      total_mean += delta * broadcast(own / (seen + own));
      total_squares += sum_of_squares + delta * delta * broadcast(seen * own / (seen + own));
    }
    store(mean + lane, total_mean);
    store(squares + lane, total_squares);
  }
}

// Write one panel of y from block[pixels][32], and the tile's mean and squares of each channel.
inline void finish_panel(const ForwardPlan& plan, const Tile& tile, int64_t index, int panel,
                         const float* block) {
  const UnitShape& s = plan.s;
  const int channels = channels_in(s.o, panel);
  const float* from = block;
  for (int64_t i = 0; plan.a.y && i < tile.pictures; ++i)
    for (int64_t r = 0; r < tile.rows; ++r) {
      const int64_t pixel =
          ((tile.first_picture + i) * s.p + tile.row + r) * s.q + tile.column;
      float* to = plan.a.y + pixel * s.o + int64_t{panel} * kPanel;
      for (int64_t column = 0; column < tile.columns; ++column, from += kPanel, to += s.o)
        for (int lane = 0; lane < channels; lane += kLanes) {
          if (channels == kPanel && plan.past_caches) {
            store_past_caches(to + lane, load(from + lane));
          } else {
            store_of_panel(to, lane, channels, load(from + lane));
          }
        }
    }
  if (!plan.a.mean) return;
  const size_t place = (static_cast<size_t>(index) * plan.output_panels + panel) * kPanel;
  panel_statistics(block, channels, tile.pixels(), plan.means + place, plan.squares + place);
}

// For the pixels of x that a tile reads, whole rows of them; for nothing where caches hold it all.
inline Prefetcher prefetch_tile(const ForwardPlan& plan, int64_t index) {
  Prefetcher prefetcher;
  const UnitShape& s = plan.s;
  const bool in_caches = s.n * (s.p * s.q * s.o + s.h * s.w * s.c) < kCacheFloats;
  if (in_caches || index >= plan.tiling.count()) return prefetcher;
  const Tile tile = tile_at(plan.tiling, s, index);
  const int64_t first = std::max<int64_t>(tile.row * s.stride_h - s.pad_top, 0);
  const int64_t last = std::min((tile.row + tile.rows - 1) * s.stride_h + span_h(s) + 1, s.h);
  const int64_t pictures = tile.pictures - 1;  // before the last one, whole
  if (last > first)
    prefetcher.add(plan.a.x + (tile.first_picture * s.h + first) * s.w * s.c,
                   static_cast<size_t>((pictures * s.h + last - first) * s.w * s.c));
  return prefetcher;
}

inline bool forward_part(const ForwardPlan& plan, int64_t part) {
  const UnitShape& s = plan.s;
  const int64_t index = part / plan.groups, group = part % plan.groups;
  const Tile tile = tile_at(plan.tiling, s, index);
  const int first = static_cast<int>(group * plan.output_panels / plan.groups);
  const int last = static_cast<int>((group + 1) * plan.output_panels / plan.groups);
  const size_t pixels = static_cast<size_t>(tile.pixels());
  const size_t window_floats = static_cast<size_t>(plan.window_rows) * plan.window_columns * kPanel;
  const size_t left_floats = (plan.has_pointwise ? plan.input_panels : 1) * pixels * kPanel;
  Workspace& memory = part_workspace();
  if (!memory.reserve(Workspace::rounded(window_floats) + Workspace::rounded(left_floats) +
                      Workspace::rounded(pixels * kPanel)))
    return false;
  float* window = memory.take(window_floats);
  float* left = memory.take(left_floats);
  float* block = memory.take(pixels * kPanel);
  const FillWindow fill = window_filler(s.activation, plan.a.in_scale);

  if (!plan.has_pointwise) {
    for (int panel = first; panel < last; ++panel) {
      filter_panel(plan, tile, panel, fill, window, left);
      finish_panel(plan, tile, index, panel, left);
    }
    finish_stores();
    return true;
  }
  for (int panel = 0; panel < plan.input_panels; ++panel)
    filter_panel(plan, tile, panel, fill, window, left + panel * pixels * kPanel);
  const size_t weight_floats = static_cast<size_t>(plan.input_panels) * kPanel * kPanel;
  Prefetcher prefetcher = prefetch_tile(plan, index + std::max(1, plan.a.threads / plan.groups));
  for (int panel = first; panel < last; ++panel) {
    multiply(left, static_cast<int>(pixels), pixels, plan.weights + panel * weight_floats,
             depth_of(s.c), channels_in(s.o, panel), block, prefetcher);
    finish_panel(plan, tile, index, panel, block);
  }
  finish_stores();
  return true;
}

// Chan's merging of the tiles' means and squares, always in the order of the tiles.
inline void merge_statistics(const ForwardPlan& plan) {
  const UnitShape& s = plan.s;
  std::vector<double> mean(s.o, 0.0), squares(s.o, 0.0);
  double seen = 0.0;
  for (int64_t index = 0; index < plan.tiling.count(); ++index) {
    const double pixels = tile_at(plan.tiling, s, index).pixels();
    const double total = seen + pixels;
    const float* means = plan.means + index * plan.output_panels * kPanel;
    const float* tile_squares = plan.squares + index * plan.output_panels * kPanel;
    for (int64_t o = 0; o < s.o; ++o) {
      const double delta = means[o] - mean[o];
      mean[o] += delta * (pixels / total);
      squares[o] += tile_squares[o] + delta * delta * (seen * pixels / total);
    }
    seen = total;
  }
  for (int64_t o = 0; o < s.o; ++o) {
    plan.a.mean[o] = static_cast<float>(mean[o]);
    plan.a.squares[o] = static_cast<float>(squares[o]);
  }
}

inline int forward(const ForwardArguments& arguments) {
  ForwardPlan plan(arguments);
  const UnitShape& s = plan.s;
  const int kernel = plan.taps.rows * plan.taps.columns;
  const size_t weight_floats = static_cast<size_t>(plan.input_panels) * kPanel * kPanel;
  const size_t all_weights = plan.has_pointwise ? weight_floats * plan.output_panels : 0;
  const size_t all_taps = static_cast<size_t>(plan.input_panels) * kernel * kPanel;
  const size_t statistics =
      arguments.mean ? static_cast<size_t>(plan.tiling.count()) * plan.output_panels * kPanel : 0;
  Workspace& memory = call_workspace();
  if (!memory.reserve(Workspace::rounded(all_weights) + Workspace::rounded(all_taps) +
                      2 * Workspace::rounded(statistics)))
    return 1;
  float* weights = memory.take(all_weights);
  float* taps_k = memory.take(all_taps);
  plan.means = memory.take(statistics);
  plan.squares = memory.take(statistics);
  plan.weights = weights;
  plan.taps_k = taps_k;

  if (plan.has_depthwise)
    for (int panel = 0; panel < plan.input_panels; ++panel)
      pack_taps(arguments.depthwise, s, panel, false,
                taps_k + static_cast<size_t>(panel) * kernel * kPanel);
  if (plan.has_pointwise)
    xception::parallel(plan.output_panels, arguments.threads, [&](int panel) {
      pack_forward(arguments.pointwise, s, panel, weights + panel * weight_floats);
    });

  std::atomic<bool> failed{false};
  xception::parallel(static_cast<int>(plan.tiling.count() * plan.groups), arguments.threads,
                     [&](int part) {
                       if (!forward_part(plan, part)) failed = true;
                     });
  if (failed) return 1;
  if (arguments.mean) merge_statistics(plan);
  return 0;
}

}  // namespace XCEPTION_ISA
