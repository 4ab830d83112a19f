// What the next piece of work will read, asked for while this one computes.
//
// The products leave memory idle and the steps around them wait for it; a few cache lines asked for
// with each block of a product even that out.
#pragma once

#include <cstddef>

#include "simd.hpp"

namespace XCEPTION_ISA {

class Prefetcher {
 public:
  Prefetcher() = default;

  // `floats` from `first` on, spread evenly over `calls` calls of next().
  Prefetcher(const float* first, size_t floats, size_t calls)
      : at_(reinterpret_cast<const char*>(first)), end_(at_ + floats * sizeof(float)) {
    const size_t lines = floats * sizeof(float) / kLine + 1;
    lines_a_call_ = calls ? (lines + calls - 1) / calls : 0;
  }

  XCEPTION_INLINE void next() {
    for (size_t i = 0; i < lines_a_call_ && at_ < end_; ++i, at_ += kLine)
      __builtin_prefetch(at_, 0, 2);  // into the second cache
  }

 private:
  static constexpr ptrdiff_t kLine = 64;
  const char *at_ = nullptr, *end_ = nullptr;
  size_t lines_a_call_ = 0;
};

}  // namespace XCEPTION_ISA
