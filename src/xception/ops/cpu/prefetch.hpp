// What the next piece of work will read, asked for while this one computes.
//
// The products leave memory idle and the steps around them wait for it. So the inner loops of the
// products ask for a cache line now and then; asked for in one go, the lines would fill the queue
// that the products' own loads stand in.
#pragma once

#include <cstddef>

#include "simd.hpp"

namespace XCEPTION_ISA {

class Prefetcher {
 public:
  // Steps of an inner loop from one line to the next.
  static constexpr int kSteps = 2;

  // `floats` from `first` on come after what was added before; at most four such ranges.
  void add(const float* first, size_t floats) {
    if (floats == 0 || ranges_ == kMostRanges) return;
    at_[ranges_] = reinterpret_cast<const char*>(first);
    end_[ranges_++] = reinterpret_cast<const char*>(first + floats);
  }

  // Where an inner loop of `steps` steps begins to ask; null: there is nothing more to ask for.
  XCEPTION_INLINE const char* take(int steps) {
    while (now_ < ranges_ && at_[now_] >= end_[now_]) ++now_;
    if (now_ == ranges_) return nullptr;
    const char* from = at_[now_];
    at_[now_] += static_cast<ptrdiff_t>(steps / kSteps) * kLine;
    return from;
  }

  // In step `step` of such a loop.
  template <bool Ahead>
  static XCEPTION_INLINE void ask(const char*& from, int step) {
    if constexpr (Ahead) {
      if (step % kSteps) return;
      __builtin_prefetch(from, 0, 2);  // into the second cache
      from += kLine;
    }
  }

 private:
  static constexpr int kMostRanges = 4;
  static constexpr ptrdiff_t kLine = 64;
  const char *at_[kMostRanges], *end_[kMostRanges];
  int ranges_ = 0, now_ = 0;
};

}  // namespace XCEPTION_ISA
