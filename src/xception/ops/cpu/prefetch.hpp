// What the next piece of work will read, asked for while this one computes.
//
// The products leave memory idle and the steps around them wait for it; a few cache lines asked for
// with each block of a product even that out.
#pragma once

#include <algorithm>
#include <cstddef>

#include "simd.hpp"

namespace XCEPTION_ISA {

class Prefetcher {
 public:
  void add(const float* first, size_t floats) {
    if (ranges_ == kMostRanges || floats == 0) return;
    const char* start = reinterpret_cast<const char*>(first);
    range_[ranges_++] = {start, start + floats * sizeof(float)};
    lines_ += floats * sizeof(float) / kLine + 1;
  }

  // Spread all lines evenly over `calls` calls of next().
  void spread_over(size_t calls) { lines_a_call_ = calls ? (lines_ + calls - 1) / calls : 0; }

  XCEPTION_INLINE void next() {
    for (size_t i = 0; i < lines_a_call_ && current_ < ranges_; ++i) {
      Range& range = range_[current_];
      __builtin_prefetch(range.at, 0, 2);  // into the second cache
      range.at += kLine;
      if (range.at >= range.end) ++current_;
    }
  }

 private:
  static constexpr int kMostRanges = 3;
  static constexpr ptrdiff_t kLine = 64;
  struct Range {
    const char *at, *end;
  };
  Range range_[kMostRanges];
  int ranges_ = 0, current_ = 0;
  size_t lines_ = 0, lines_a_call_ = 0;
};

}  // namespace XCEPTION_ISA
