// What a depthwise step reads, one panel of 32 channels at a time.
//
// A window is a piece of an activated picture with its zero padding written out, [rows][columns][32].
// Reading through it, no depthwise loop knows of borders, strides of pictures or activations.
#pragma once

#include <algorithm>

#include "activation.hpp"
#include "shape.hpp"
#include "simd.hpp"

namespace XCEPTION_ISA {

using xception::UnitShape;

// Lanes of a panel that are worked on: those with channels, in whole vectors and eights (products
// sum over eights). What lies in the others is never defined and never used.
XCEPTION_INLINE int lanes_of(int channels) {
  constexpr int kStep = std::max(kLanes, 8);
  return (channels + kStep - 1) / kStep * kStep;
}

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
  const int lanes = lanes_of(channels);
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
        for (int lane = 0; lane < lanes; lane += kLanes) {
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

}  // namespace XCEPTION_ISA
