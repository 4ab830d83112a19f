// Backward: one walk over the outputs gives all gradients; the depthwise step is computed anew.
//
// A part is a range of pictures times a range of input panels; it goes through its pictures strip
// by strip (some rows of a picture, or some small pictures). For a strip, the gradient of y is
// packed once; then for each input panel:
//     hidden_grad = y_grad * pointwise            (multiply)
//     hidden      = depthwise of the activated x  (as forward)
//     pointwise_grad += transpose(y_grad) * hidden (multiply_transposed)
//     depthwise_grad += hidden_grad against the activated x
//     x_grad      = hidden_grad through the turned depthwise kernel, activation and scale
// Rows of x that a later strip still adds to wait for it: the last rows of hidden_grad are carried.
// Sums over pictures are kept for each range of pictures apart and added in order at the end, so
// results do not depend on which thread is first.
#pragma once

#include <atomic>

#include "gemm.hpp"
#include "input_gradient.hpp"
#include "parallel.hpp"

namespace XCEPTION_ISA {

// The spatial half for one panel and one picture of a strip, some rows at a time.
inline void backward_picture(const BackwardPlan& plan, const Strip& strip, int64_t index, int panel,
                             FillWindow fill, FinishInput finish, const BackwardBuffers& buffers,
                             float* carried, float* sums) {
  const UnitShape& s = plan.s;
  const int channels = channels_in(s.c, panel), lanes = lanes_of(channels);
  const int64_t picture = strip.first_picture + index;
  const int64_t place = index * strip.rows * s.q * kPanel;
  const float* hidden_grad = buffers.hidden_grad + place;
  float* hidden = buffers.hidden + place;
  float* taps_sum = sums + plan.pointwise_floats();
  const PanelAffine affine(plan.a.in_scale, plan.a.in_shift, panel * kPanel, channels);
  const float* x = plan.a.x + picture * s.h * s.w * s.c + int64_t{panel} * kPanel;
  const int rows = static_cast<int>(strip.rows), columns = static_cast<int>(s.q);
  const int64_t first_row = strip.row * s.stride_h - s.pad_top;
  const Window window{buffers.window, (rows - 1) * s.stride_h + span_h(s) + 1,
                      plan.window_columns};
  RowFiller filler(fill, x, s, affine, channels, first_row, -s.pad_left, window);
  const float* taps_k = plan.taps_k + static_cast<size_t>(panel) * plan.kernel * kPanel;
  InputGradient input(plan, strip, picture, panel, finish, buffers, carried, sums);

  const int chunk = chunk_rows(s, columns);
  for (int first = 0; first < rows; first += chunk) {
    const int count = std::min(chunk, rows - first);
    const size_t offset = static_cast<size_t>(first) * columns * kPanel;
    const Window below = window.from_row(first * s.stride_h);
    filler.fill_until((first + count - 1) * s.stride_h + span_h(s) + 1);
    if (plan.has_pointwise) depthwise(below, plan.taps, taps_k, lanes, count, columns, hidden + offset);
    depthwise_gradient(below, plan.taps, hidden_grad + offset, lanes, count, columns, taps_sum);
    if (plan.wants_input) input.add_rows(hidden_grad + offset, first, count);
  }
  if (plan.wants_input) input.end();
}

// For what the strip from `row` of `picture` on reads, and what it writes (which the cache reads
// before); for nothing where caches hold it all.
inline Prefetcher prefetch_strip(const BackwardPlan& plan, int64_t picture, int64_t pictures,
                                 int64_t row) {
  Prefetcher prefetcher;
  const UnitShape& s = plan.s;
  if (pictures <= 0 || s.n * (s.p * s.q * s.o + s.h * s.w * s.c) < kCacheFloats)
    return prefetcher;
  const int64_t rows = std::min(plan.strips.rows, s.p - row);
  const int64_t start = (picture * s.p + row) * s.q * s.o;
  const size_t floats = static_cast<size_t>(pictures * rows * s.q * s.o);
  prefetcher.add(plan.a.grad_y + start, floats);
  if (plan.a.grad_offset) prefetcher.add(plan.a.y + start, floats);
  const int64_t first = std::max<int64_t>(row * s.stride_h - s.pad_top, 0);
  const int64_t last = std::min((row + rows - 1) * s.stride_h - s.pad_top + span_h(s) + 1, s.h);
  if (last <= first) return prefetcher;
  const int64_t start_x = (picture * s.h + first) * s.w * s.c;
  const size_t floats_x = static_cast<size_t>(((pictures - 1) * s.h + last - first) * s.w * s.c);
  prefetcher.add(plan.a.x + start_x, floats_x);
  if (plan.a.grad_x) prefetcher.add(plan.a.grad_x + start_x, floats_x);
  return prefetcher;
}

inline bool backward_part(const BackwardPlan& plan, int part) {
  const UnitShape& s = plan.s;
  const int picture_part = part / plan.panel_parts, panel_part = part % plan.panel_parts;
  const int first_panel = panel_part * plan.input_panels / plan.panel_parts;
  const int last_panel = (panel_part + 1) * plan.input_panels / plan.panel_parts;
  const int64_t groups = plan.strips.picture_tiles;
  const int64_t first_group = picture_part * groups / plan.picture_parts;
  const int64_t last_group = (picture_part + 1) * groups / plan.picture_parts;

  const size_t pixels = static_cast<size_t>(plan.strips.pixels());
  const size_t window_floats = static_cast<size_t>(plan.window_rows) * plan.window_columns * kPanel;
  const size_t spread_floats = static_cast<size_t>(plan.spread_rows) * plan.spread_columns * kPanel;
  const size_t through_floats = static_cast<size_t>(chunk_rows(s, static_cast<int>(s.w))) * s.w * kPanel;
  const size_t carry_floats = static_cast<size_t>(span_h(s)) * plan.spread_columns * kPanel;
  const size_t gradient_floats =
      (plan.has_pointwise ? plan.output_panels : 1) * pixels * kPanel;
  Workspace& memory = part_workspace();
  if (!memory.reserve(Workspace::rounded(gradient_floats) + 2 * Workspace::rounded(pixels * kPanel) +
                      Workspace::rounded(window_floats) + Workspace::rounded(spread_floats) +
                      Workspace::rounded(through_floats) +
                      Workspace::rounded(carry_floats * (last_panel - first_panel))))
    return false;
  BackwardBuffers buffers;
  buffers.gradient = memory.take(gradient_floats);
  buffers.hidden_grad = memory.take(pixels * kPanel);
  buffers.hidden = memory.take(pixels * kPanel);
  buffers.window = memory.take(window_floats);
  buffers.spread = memory.take(spread_floats);
  buffers.through = memory.take(through_floats);
  buffers.carry = memory.take(carry_floats * (last_panel - first_panel));

  const FillWindow fill = window_filler(s.activation, plan.a.in_scale);
  const FinishInput finish = input_finisher(s.activation);
  const int depth = depth_of(s.o);
  for (int panel = first_panel; panel < last_panel; ++panel)
    std::memset(plan.panel_sums(picture_part, panel), 0, plan.sum_floats() * sizeof(float));

  for (int64_t group = first_group; group < last_group; ++group)
    for (int64_t row = 0; row < s.p; row += plan.strips.rows) {
      Strip strip;
      strip.first_picture = group * plan.strips.pictures;
      strip.pictures = std::min(plan.strips.pictures, s.n - strip.first_picture);
      strip.row = row;
      strip.rows = std::min(plan.strips.rows, s.p - row);
      strip.is_last = row + strip.rows == s.p;
      const int strip_pixels = strip.pixels(s);
      const size_t panel_floats = static_cast<size_t>(strip_pixels) * kPanel;
      const bool is_within = !strip.is_last;  // the next strip is of the same pictures
      const int64_t next = is_within ? strip.first_picture : strip.first_picture + strip.pictures;
      const int64_t end = std::min(last_group * plan.strips.pictures, s.n);
      Prefetcher prefetcher =
          prefetch_strip(plan, next, std::min(plan.strips.pictures, end - next),
                         is_within ? row + strip.rows : 0);
      if (plan.has_pointwise) pack_strip(plan, strip, 0, plan.output_panels, buffers.gradient);
      for (int panel = first_panel; panel < last_panel; ++panel) {
        const int channels = channels_in(s.c, panel);
        float* sums = plan.panel_sums(picture_part, panel);
        if (plan.has_pointwise) {
          multiply(buffers.gradient, strip_pixels, strip_pixels,
                   plan.weights + panel * plan.pointwise_floats(), depth, channels,
                   buffers.hidden_grad, prefetcher);
        } else {
          pack_strip(plan, strip, panel, panel + 1, buffers.hidden_grad);
        }
        float* carried = buffers.carry + (panel - first_panel) * carry_floats;
        for (int64_t i = 0; i < strip.pictures; ++i) {
          if (plan.has_depthwise) {
            backward_picture(plan, strip, i, panel, fill, finish, buffers, carried, sums);
          } else {
            plain_picture(plan, strip, i, panel, fill, finish, buffers, sums);
          }
        }
        if (plan.has_pointwise)
          for (int output = 0; output < plan.output_panels; ++output)
            multiply_transposed(buffers.gradient + output * panel_floats,
                                channels_in(s.o, output), buffers.hidden, channels, strip_pixels,
                                sums + static_cast<size_t>(output) * kPanel * kPanel,
                                prefetcher);
      }
    }
  return true;
}

// Add the parts' sums in their order and write one panel's gradients where they belong.
inline void reduce_panel(const BackwardPlan& plan, int panel) {
  const UnitShape& s = plan.s;
  const BackwardArguments& a = plan.a;
  const int channels = channels_in(s.c, panel);
  float* total = plan.panel_sums(0, panel);
  const size_t floats = plan.sum_floats();
  for (int part = 1; part < plan.picture_parts; ++part) {
    const float* other = plan.panel_sums(part, panel);
    for (size_t i = 0; i < floats; i += kLanes) store(total + i, load(total + i) + load(other + i));
  }
  if (plan.has_pointwise)
    for (int64_t o = 0; o < s.o; ++o)
      for (int lane = 0; lane < kPanel; lane += kLanes)
        store_of_panel(a.grad_pointwise + o * s.c + int64_t{panel} * kPanel, lane, channels,
                       load(total + o * kPanel + lane));
  const float* taps_sum = total + plan.pointwise_floats();
  if (plan.has_depthwise)
    for (int c = 0; c < channels; ++c)
      for (int k = 0; k < plan.kernel; ++k)
        a.grad_depthwise[(int64_t{panel} * kPanel + c) * plan.kernel + k] = taps_sum[k * kPanel + c];
  if (a.grad_in_scale)
    for (int c = 0; c < channels; ++c) {
      a.grad_in_scale[panel * kPanel + c] = taps_sum[plan.kernel * kPanel + c];
      a.grad_in_shift[panel * kPanel + c] = taps_sum[(plan.kernel + 1) * kPanel + c];
    }
}

inline int backward(const BackwardArguments& arguments) {
  BackwardPlan plan(arguments);
  const UnitShape& s = plan.s;
  const size_t all_weights = plan.pointwise_floats() * plan.input_panels;
  const size_t all_taps = static_cast<size_t>(plan.input_panels) * plan.kernel * kPanel;
  const size_t all_sums = plan.sum_floats() * plan.input_panels * plan.picture_parts;
  Workspace& memory = call_workspace();
  if (!memory.reserve(Workspace::rounded(all_weights) + 2 * Workspace::rounded(all_taps) +
                      Workspace::rounded(all_sums)))
    return 1;
  float* weights = memory.take(all_weights);
  float* taps_k = memory.take(all_taps);
  float* turned_taps = memory.take(all_taps);
  plan.sums = memory.take(all_sums);
  plan.weights = weights;
  plan.taps_k = taps_k;
  plan.turned_taps = turned_taps;

  xception::parallel(plan.input_panels, arguments.threads, [&](int panel) {
    const size_t place = static_cast<size_t>(panel) * plan.kernel * kPanel;
    if (plan.has_depthwise) {
      pack_taps(arguments.depthwise, s, panel, false, taps_k + place);
      pack_taps(arguments.depthwise, s, panel, true, turned_taps + place);
    }
    if (plan.has_pointwise)
      pack_backward(arguments.pointwise, s, panel, weights + panel * plan.pointwise_floats());
  });
  std::atomic<bool> failed{false};
  xception::parallel(plan.picture_parts * plan.panel_parts, arguments.threads, [&](int part) {
    if (!backward_part(plan, part)) failed = true;
  });
  if (failed) return 1;
  xception::parallel(plan.input_panels, arguments.threads,
                     [&](int panel) { reduce_panel(plan, panel); });
  return 0;
}

}  // namespace XCEPTION_ISA
