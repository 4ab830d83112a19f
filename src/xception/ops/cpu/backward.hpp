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
#include "packing.hpp"
#include "parallel.hpp"

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
  const int channels = channels_in(s.o, panel);
  const float* gradient = plan.a.grad_y + start;
  if (!plan.a.grad_offset) {
    for (int m = 0; m < pixels; ++m, gradient += s.o, to += kPanel)
      for (int lane = 0; lane < kPanel; lane += kLanes)
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
    for (int v = 0; v < kPanelVectors; ++v) {
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

// Through activation and scale: the gradient of some pixels in a row of x, from through[pixels][32]
// behind them. column, step: of the first pixel, and from one to the next.
template <Activation A>
void finish_input(const BackwardPlan& plan, int panel, int64_t row, int64_t column, int step,
                  int64_t pixels, const float* through, float* scale_sum, float* shift_sum) {
  const UnitShape& s = plan.s;
  const int channels = channels_in(s.c, panel);
  const PanelAffine affine(plan.a.in_scale, plan.a.in_shift, panel * kPanel, channels);
  const int64_t start = (row * s.w + column) * s.c + int64_t{panel} * kPanel;
  const int64_t stride = step * s.c;
  for (int lane = 0; lane < kPanel && lane < channels; lane += kLanes) {
    const Vector scale = load(affine.scale + lane), shift = load(affine.shift + lane);
    const float* from = through + lane;
    const float* x = plan.a.x + start + lane;
    float* to = plan.a.grad_x ? plan.a.grad_x + start + lane : nullptr;
    const int width = std::min(kLanes, channels - lane);
    Vector scale_row{}, shift_row{};
    for (int64_t i = 0; i < pixels; ++i, from += kPanel, x += stride) {
      const Vector value = width == kLanes ? load(x) : load_first(x, width);
      const Vector before = activation_gradient<A>(load(from), value * scale + shift);
      scale_row += before * value;
      shift_row += before;
      if (to) {
        if (width == kLanes) {
          store(to, before * scale);
        } else {
          store_first(to, before * scale, width);
        }
        to += stride;
      }
    }
    store(scale_sum + lane, load(scale_sum + lane) + scale_row);
    store(shift_sum + lane, load(shift_sum + lane) + shift_row);
  }
}

using FinishInput = void (*)(const BackwardPlan&, int, int64_t, int64_t, int, int64_t,
                             const float*, float*, float*);

inline FinishInput input_finisher(Activation activation) {
  switch (activation) {
    case Activation::kRelu: return finish_input<Activation::kRelu>;
    case Activation::kRelu6: return finish_input<Activation::kRelu6>;
    case Activation::kHardswish: return finish_input<Activation::kHardswish>;
    case Activation::kSilu: return finish_input<Activation::kSilu>;
    default: return finish_input<Activation::kNone>;
  }
}

// Scratch of a part.
struct BackwardBuffers {
  float* gradient;     // [output panel][pixels][32]
  float* hidden_grad;  // [pixels][32]
  float* hidden;       // [pixels][32]
  float* window;       // activated x of one picture's strip
  float* spread;       // hidden_grad at the places of x, zeros around, carried rows first
  float* through;      // [rows of x][w][32]
  float* carry;        // [input panel][span_h][spread columns][32]
};

// Lay rows of the hidden gradient out on the grid of x's pixels, zeros between and around them.
// spread: the window from the first of these rows on.
inline void spread_rows(const UnitShape& s, const float* hidden_grad, int rows,
                        const Window& spread) {
  const size_t row_floats = static_cast<size_t>(spread.columns) * kPanel;
  const int64_t offset = span_w(s) - s.pad_left;
  const int64_t first = std::clamp<int64_t>(offset, 0, spread.columns);
  const int64_t last = std::clamp<int64_t>(offset + s.q, first, spread.columns);
  for (int r = 0; r < rows; ++r, hidden_grad += s.q * kPanel) {
    float* row = spread.at(r * s.stride_h, 0);
    if (s.stride_h == 1 && s.stride_w == 1) {
      std::memset(row, 0, sizeof(float) * first * kPanel);
      std::memcpy(row + first * kPanel, hidden_grad + (first - offset) * kPanel,
                  sizeof(float) * (last - first) * kPanel);
      std::memset(row + last * kPanel, 0, sizeof(float) * (spread.columns - last) * kPanel);
      continue;
    }
    std::memset(row, 0, sizeof(float) * s.stride_h * row_floats);
    for (int64_t q = 0; q < s.q; ++q) {
      const int64_t column = q * s.stride_w + offset;
      if (column < 0 || column >= spread.columns) continue;
      std::memcpy(row + column * kPanel, hidden_grad + q * kPanel, sizeof(float) * kPanel);
    }
  }
}

// The way of one panel of one picture's strip back to x.
class InputGradient {
 public:
  InputGradient(const BackwardPlan& plan, const Strip& strip, int64_t picture, int panel,
                FinishInput finish, const BackwardBuffers& buffers, float* carried, float* sums)
      : plan_(plan), s_(plan.s), strip_(strip), picture_(picture), panel_(panel), finish_(finish),
        through_(buffers.through), carried_(carried),
        spread_{buffers.spread, plan.spread_rows, plan.spread_columns},
        scale_sum_(sums + plan.pointwise_floats() + plan.kernel * kPanel),
        done_(std::clamp<int64_t>(strip.row * s_.stride_h - s_.pad_top, 0, s_.h)) {
    if (strip.row == 0) done_ = 0;
    const size_t floats = static_cast<size_t>(span_h(s_)) * spread_.columns * kPanel;
    if (strip.row == 0) {
      std::memset(spread_.data, 0, floats * sizeof(float));
    } else {
      std::memcpy(spread_.data, carried, floats * sizeof(float));
    }
  }

  // Take in `count` rows of the hidden gradient from row `first` of the strip, and finish the rows
  // of x that no later one adds to.
  void add_rows(const float* hidden_grad, int first, int count) {
    spread_rows(s_, hidden_grad, count, spread_.from_row(span_h(s_) + first * s_.stride_h));
    const int64_t reached = (strip_.row + first + count) * s_.stride_h - s_.pad_top;
    finish_until(std::clamp<int64_t>(reached, 0, s_.h));
  }

  // After the strip's last row: finish the picture, or keep what the next strip needs.
  void end() {
    const int below = span_h(s_) + static_cast<int>(strip_.rows) * s_.stride_h;
    const size_t row_floats = static_cast<size_t>(spread_.columns) * kPanel;
    if (strip_.is_last) {
      std::memset(spread_.at(below, 0), 0, sizeof(float) * (spread_.rows - below) * row_floats);
      finish_until(s_.h);
    } else {
      std::memcpy(carried_, spread_.at(below - span_h(s_), 0),
                  sizeof(float) * span_h(s_) * row_floats);
    }
  }

 private:
  void finish_until(int64_t end) {
    const float* taps = plan_.turned_taps + static_cast<size_t>(panel_) * plan_.kernel * kPanel;
    const int chunk = chunk_rows(s_, static_cast<int>(s_.w));
    while (done_ < end) {
      const int rows = static_cast<int>(std::min<int64_t>(chunk, end - done_));
      const int top = static_cast<int>(done_ + s_.pad_top - strip_.row * s_.stride_h);
      depthwise(spread_.from_row(top), plan_.turned, taps, rows, static_cast<int>(s_.w), through_);
      for (int r = 0; r < rows; ++r, ++done_)
        finish_(plan_, panel_, picture_ * s_.h + done_, 0, 1, s_.w,
                through_ + static_cast<size_t>(r) * s_.w * kPanel, scale_sum_,
                scale_sum_ + kPanel);
    }
  }

  const BackwardPlan& plan_;
  const UnitShape& s_;
  const Strip& strip_;
  int64_t picture_;
  int panel_;
  FinishInput finish_;
  float *through_, *carried_;
  Window spread_;
  float* scale_sum_;
  int64_t done_;  // rows of x that are finished
};

// The same where there is no depthwise step: each output has one pixel of x, others have none.
inline void plain_picture(const BackwardPlan& plan, const Strip& strip, int64_t index, int panel,
                          FillWindow fill, FinishInput finish, const BackwardBuffers& buffers,
                          float* sums) {
  const UnitShape& s = plan.s;
  const int channels = channels_in(s.c, panel);
  const int64_t picture = strip.first_picture + index;
  const int64_t place = index * strip.rows * s.q * kPanel;
  const int columns = static_cast<int>(s.q);
  float* scale_sum = sums + plan.pointwise_floats() + plan.kernel * kPanel;
  if (plan.has_pointwise) {
    const PanelAffine affine(plan.a.in_scale, plan.a.in_shift, panel * kPanel, channels);
    const View view{strip.row * s.stride_h - s.pad_top, -int64_t{s.pad_left}, s.stride_h,
                    s.stride_w};
    fill(plan.a.x + picture * s.h * s.w * s.c + int64_t{panel} * kPanel, s, affine, channels, view,
         {buffers.hidden + place, static_cast<int>(strip.rows), columns});
  }
  if (!plan.wants_input) return;

  // The outputs first..last of a row whose pixel lies inside the picture.
  const int64_t first = (s.pad_left + s.stride_w - 1) / s.stride_w;
  const int64_t last =
      std::clamp<int64_t>((s.w + s.pad_left - 1) / s.stride_w + 1, first, std::max(s.q, first));
  const bool has_gaps = s.stride_h > 1 || s.stride_w > 1 || s.pad_top > 0 || s.pad_left > 0 ||
                        s.p < s.h || s.q < s.w;
  int64_t next = strip.row == 0 ? 0 : strip.row * s.stride_h - s.pad_top;
  const int64_t end = strip.is_last ? s.h : (strip.row + strip.rows) * s.stride_h - s.pad_top;
  if (has_gaps && plan.a.grad_x)
    for (int64_t row = std::max<int64_t>(next, 0); row < std::min(end, s.h); ++row) {
      float* to = plan.a.grad_x + ((picture * s.h + row) * s.w) * s.c + int64_t{panel} * kPanel;
      for (int64_t column = 0; column < s.w; ++column, to += s.c)
        std::memset(to, 0, sizeof(float) * channels);
    }
  for (int64_t r = 0; r < strip.rows; ++r) {
    const int64_t row = (strip.row + r) * s.stride_h - s.pad_top;
    if (row < 0 || row >= s.h || last <= first || first >= s.q) continue;
    finish(plan, panel, picture * s.h + row, first * s.stride_w - s.pad_left, s.stride_w,
           std::min(last, s.q) - first, buffers.hidden_grad + place + (r * s.q + first) * kPanel,
           scale_sum, scale_sum + kPanel);
  }
}

// The spatial half for one panel and one picture of a strip, some rows at a time.
inline void backward_picture(const BackwardPlan& plan, const Strip& strip, int64_t index, int panel,
                             FillWindow fill, FinishInput finish, const BackwardBuffers& buffers,
                             float* carried, float* sums) {
  const UnitShape& s = plan.s;
  const int channels = channels_in(s.c, panel);
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
    if (plan.has_pointwise) depthwise(below, plan.taps, taps_k, count, columns, hidden + offset);
    depthwise_gradient(below, plan.taps, hidden_grad + offset, count, columns, taps_sum);
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
        float* sums = plan.panel_sums(picture_part, panel);
        if (plan.has_pointwise) {
          multiply(buffers.gradient, strip_pixels, strip_pixels,
                   plan.weights + panel * plan.pointwise_floats(), depth, buffers.hidden_grad,
                   prefetcher);
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
            multiply_transposed(buffers.gradient + output * panel_floats, buffers.hidden,
                                strip_pixels, sums + static_cast<size_t>(output) * kPanel * kPanel,
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
