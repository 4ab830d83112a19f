// How a backward pass is divided, and the packing of the gradient that arrives.
#pragma once

#include "depthwise.hpp"
#include "packing.hpp"
#include "prefetch.hpp"
#include "simd.hpp"

namespace XCEPTION_ISA {

using xception::BackwardArguments;

constexpr int64_t kBackwardFloats = 128 * 1024;  // of the packed gradient of y
constexpr int64_t kLeastStrip = 96, kMostStrip = 512;

struct BackwardPlan {
  explicit BackwardPlan(const BackwardArguments& arguments)
      : a(arguments), s(arguments.shape), input_panels(panels_of(s.c)),
        output_panels(panels_of(s.o)), has_depthwise(a.depthwise), has_pointwise(a.pointwise),
        wants_input(a.grad_x || a.grad_in_scale) {
    const int64_t wanted = kBackwardFloats / (int64_t{has_pointwise ? output_panels : 1} * kPanel);
    strips = cut(s, std::clamp(wanted, kLeastStrip, kMostStrip), true);
    share_out();
    kernel = s.kernel_h * s.kernel_w;
    taps = {s.kernel_h, s.kernel_w, s.stride_h, s.stride_w, s.dilation_h, s.dilation_w};
    turned = {s.kernel_h, s.kernel_w, 1, 1, s.dilation_h, s.dilation_w};
    window_rows = static_cast<int>((strips.rows - 1) * s.stride_h + span_h(s) + 1);
    window_columns = static_cast<int>((s.q - 1) * s.stride_w + span_w(s) + 1);
    spread_columns = static_cast<int>(s.w + span_w(s));
    // The last strip also finishes what no output reaches: rows below the last one's kernel.
    const int64_t rest = std::max<int64_t>(0, s.h - 1 + s.pad_top - (s.p - 1) * s.stride_h);
    spread_rows = static_cast<int>(span_h(s) + strips.rows * s.stride_h + rest + 1);
  }

  // Ranges of pictures first, since they share no work; input panels where pictures are too few.
  void share_out() {
    const int64_t threads = std::max(a.threads, 1);
    const int64_t groups = strips.picture_tiles;
    picture_parts = static_cast<int>(std::min(threads, groups));
    while (picture_parts > 1 && divided(groups, picture_parts) * picture_parts > groups * 9 / 8)
      --picture_parts;
    panel_parts = static_cast<int>(
        std::min<int64_t>(input_panels, std::max<int64_t>(1, threads / picture_parts)));
  }

  const BackwardArguments& a;
  const UnitShape& s;
  int input_panels, output_panels;
  bool has_depthwise, has_pointwise, wants_input;
  Tiling strips;
  int picture_parts, panel_parts;
  int kernel;
  Taps taps, turned;
  int window_rows, window_columns;
  int spread_rows, spread_columns;
  const float* weights = nullptr;      // [input panel][o][32]
  const float* taps_k = nullptr;       // [input panel][k][32]
  const float* turned_taps = nullptr;  // [input panel][k][32]
  float* sums = nullptr;               // [picture part][input panel] of PanelSums

  size_t pointwise_floats() const {
    return has_pointwise ? static_cast<size_t>(output_panels) * kPanel * kPanel : 0;
  }
  // One panel's sums: pointwise gradient [o][32], depthwise [k][32], scale [32], shift [32].
  size_t sum_floats() const { return pointwise_floats() + (kernel + 2) * kPanel; }
  float* panel_sums(int part, int panel) const {
    return sums + (static_cast<size_t>(part) * input_panels + panel) * sum_floats();
  }
};

struct Strip {
  int64_t first_picture, pictures, row, rows;
  bool is_last;  // of its pictures
  int pixels(const UnitShape& s) const { return static_cast<int>(pictures * rows * s.q); }
};

constexpr int kPackBlock = 16;  // pixels of all panels that are packed together

// to[pixels][32]: some pixels of one panel of the gradient that arrives at y, that of y's statistics
// included. start: of the panel's first channel at the first pixel.
inline void pack_gradient(const BackwardPlan& plan, int64_t start, int panel, int pixels,
                          float* to) {
  const UnitShape& s = plan.s;
  const int channels = channels_in(s.o, panel), lanes = lanes_of(channels);
  const float* gradient = plan.a.grad_y + start;
  if (!plan.a.grad_offset) {
    for (int m = 0; m < pixels; ++m, gradient += s.o, to += kPanel)
      for (int lane = 0; lane < lanes; lane += kLanes)
        store(to + lane, load_of_panel(gradient, lane, channels));
    return;
  }
  const float* y = plan.a.y + start;
  Vector mean[kPanelVectors], offset[kPanelVectors], slope[kPanelVectors];
  for (int v = 0; v < kPanelVectors; ++v) {
    mean[v] = load_of_panel(plan.a.mean + panel * kPanel, v * kLanes, channels);
    offset[v] = load_of_panel(plan.a.grad_offset + panel * kPanel, v * kLanes, channels);
    slope[v] = load_of_panel(plan.a.grad_slope + panel * kPanel, v * kLanes, channels);
  }
  for (int m = 0; m < pixels; ++m, gradient += s.o, y += s.o, to += kPanel) {
    prefetch_panel(gradient + kPackBlock * s.o);
    prefetch_panel(y + kPackBlock * s.o);
    for (int v = 0; v * kLanes < lanes; ++v) {
      const int lane = v * kLanes;
      const Vector distance = load_of_panel(y, lane, channels) - mean[v];
      store(to + lane,
            load_of_panel(gradient, lane, channels) + offset[v] + slope[v] * distance);
    }
  }
}

// packed[panel][pixels][32] for panels first..last. A few pixels of all panels at a time, so that
// memory is read in its own order.
inline void pack_strip(const BackwardPlan& plan, const Strip& strip, int first, int last,
                       float* packed) {
  const UnitShape& s = plan.s;
  const int pixels = strip.pixels(s);
  const int64_t start = ((strip.first_picture * s.p + strip.row) * s.q) * s.o;
  for (int m = 0; m < pixels; m += kPackBlock)
    for (int panel = first; panel < last; ++panel)
      pack_gradient(plan, start + m * s.o + int64_t{panel} * kPanel, panel,
                    std::min(kPackBlock, pixels - m),
                    packed + (static_cast<size_t>(panel - first) * pixels + m) * kPanel);
}

}  // namespace XCEPTION_ISA
