// Scratch memory of a thread: kept between calls, so that its pages are faulted in once.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "simd.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

// In a build with AddressSanitizer, what was not taken is out of bounds; else these do nothing.
#if __has_include(<sanitizer/asan_interface.h>)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes)
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes)
#endif

namespace XCEPTION_ISA {

class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { std::free(block_); }

  // Room for `floats`; what was in it before is lost. False: there is no memory.
  bool reserve(size_t floats) {
    used_ = 0;
    const size_t bytes = (floats * sizeof(float) + kPage) / kPage * kPage;
    if (bytes > bytes_) {
      std::free(block_);
      block_ = static_cast<float*>(std::aligned_alloc(kPage, bytes));
      bytes_ = block_ ? bytes : 0;
#if defined(__linux__)
      if (block_) madvise(block_, bytes, MADV_HUGEPAGE);
#endif
    }
    ASAN_POISON_MEMORY_REGION(block_, bytes_);
    return block_ != nullptr;
  }

  // The next `floats` of what was reserved, on a cache line of their own.
  float* take(size_t floats) {
    float* taken = block_ + used_;
    used_ += rounded(floats);
    ASAN_UNPOISON_MEMORY_REGION(taken, floats * sizeof(float));
#if defined(XCEPTION_CHECK_WORKSPACE)  // what is used before it is written becomes visible
    std::fill(taken, taken + floats, std::numeric_limits<float>::quiet_NaN());
#endif
    return taken;
  }

  // What take() uses up, with some lines between so that buffers do not share cache sets.
  static size_t rounded(size_t floats) { return (floats + 15) / 16 * 16 + 80; }

 private:
  static constexpr size_t kPage = size_t{2} << 20;
  float* block_ = nullptr;
  size_t bytes_ = 0, used_ = 0;
};

// Of the thread that works on a part, and of the one that called: what all parts of a call share.
inline Workspace& part_workspace() {
  thread_local Workspace own;
  return own;
}

inline Workspace& call_workspace() {
  thread_local Workspace own;
  return own;
}

}  // namespace XCEPTION_ISA
