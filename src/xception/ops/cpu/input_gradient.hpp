// Backward, from the gradient of what the pointwise step reads to that of x.
#pragma once

#include "backward_plan.hpp"

namespace XCEPTION_ISA {

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
      depthwise(spread_.from_row(top), plan_.turned, taps, lanes_of(channels_in(s_.c, panel_)), rows,
                static_cast<int>(s_.w), through_);
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

}  // namespace XCEPTION_ISA
