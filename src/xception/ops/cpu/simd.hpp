// Vectors of floats by the compiler's own vector extension: one source for every instruction set.
//
// This header and all that include it are compiled once per instruction set, each time inside the
// namespace XCEPTION_ISA with other compiler flags (see CMakeLists.txt). Multiply-adds are written
// as a * b + c and contracted by the compiler where the machine has the instruction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace XCEPTION_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;  // SSE2, NEON
#endif

// Everything is worked on in panels of 32 channels: two cache lines, whatever the vector's width.
constexpr int kPanel = 32;
constexpr int kPanelVectors = kPanel / kLanes;

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t Mask __attribute__((vector_size(kLanes * sizeof(int32_t))));
typedef float UnalignedVector
    __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));

#define XCEPTION_INLINE inline __attribute__((always_inline))

XCEPTION_INLINE Vector load(const float* from) {
  return *reinterpret_cast<const UnalignedVector*>(from);
}

XCEPTION_INLINE void store(float* to, Vector value) {
  *reinterpret_cast<UnalignedVector*>(to) = value;
}

// Past the caches, for what is larger than they are; `to` is aligned to a vector.
XCEPTION_INLINE void store_past_caches(float* to, Vector value) {
#if defined(__AVX512F__)
  _mm512_stream_ps(to, reinterpret_cast<__m512>(value));
#elif defined(__AVX__)
  _mm256_stream_ps(to, reinterpret_cast<__m256>(value));
#elif defined(__SSE2__)
  _mm_stream_ps(to, reinterpret_cast<__m128>(value));
#else
  store(to, value);
#endif
}

// Makes such stores visible to other threads.
XCEPTION_INLINE void finish_stores() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

constexpr int64_t kCacheFloats = int64_t{6} << 20;  // 24 MB, of a cache shared by cores

// Whether rows of `channels` floats from `data` on may and should be stored past the caches.
inline bool goes_past_caches(const float* data, int64_t floats, int64_t channels) {
  return floats > kCacheFloats && channels % kLanes == 0 &&
         reinterpret_cast<uintptr_t>(data) % sizeof(Vector) == 0;
}

XCEPTION_INLINE Vector broadcast(float value) { return value - Vector{}; }

// The first `count` of a vector's floats; the others read as zero. count < kLanes.
XCEPTION_INLINE Vector load_first(const float* from, int count) {
#if defined(__AVX512F__)
  const auto lanes = static_cast<__mmask16>((1u << count) - 1);
  return reinterpret_cast<Vector>(_mm512_maskz_loadu_ps(lanes, from));
#else
  Vector value{};
  std::memcpy(&value, from, static_cast<size_t>(count) * sizeof(float));
  return value;
#endif
}

XCEPTION_INLINE void store_first(float* to, Vector value, int count) {
#if defined(__AVX512F__)
  const auto lanes = static_cast<__mmask16>((1u << count) - 1);
  _mm512_mask_storeu_ps(to, lanes, reinterpret_cast<__m512>(value));
#else
  std::memcpy(to, &value, static_cast<size_t>(count) * sizeof(float));
#endif
}

// Channels `lane`.. of a panel that has `channels` of them in memory (32, or fewer at the end).
XCEPTION_INLINE Vector load_of_panel(const float* panel, int lane, int channels) {
  if (lane + kLanes <= channels) return load(panel + lane);
  return lane < channels ? load_first(panel + lane, channels - lane) : Vector{};
}

XCEPTION_INLINE void store_of_panel(float* panel, int lane, int channels, Vector value) {
  if (lane + kLanes <= channels) {
    store(panel + lane, value);
  } else if (lane < channels) {
    store_first(panel + lane, value, channels - lane);
  }
}

// One panel of a pixel that is read soon: panels jump from pixel to pixel, which the machine's own
// prefetching does not follow. Always inlined, since compilers drop calls that only prefetch.
XCEPTION_INLINE void prefetch_panel(const float* pixel) {
  for (int lane = 0; lane < kPanel; lane += 16) __builtin_prefetch(pixel + lane);
}

// kLanes small whole numbers in memory, one byte each.
typedef uint8_t Bytes __attribute__((vector_size(kLanes)));

XCEPTION_INLINE Mask load_bytes(const uint8_t* from, int count = kLanes) {
  Bytes bytes{};
  std::memcpy(&bytes, from, static_cast<size_t>(count));
  // Compilers widen the bytes of a vector one by one, so where there is an instruction it is named.
#if defined(__AVX512F__)
  return reinterpret_cast<Mask>(_mm512_maskz_cvtepu8_epi32(0xffff, reinterpret_cast<__m128i>(bytes)));
#elif defined(__AVX2__)
  uint64_t eight;
  std::memcpy(&eight, &bytes, sizeof eight);
  return reinterpret_cast<Mask>(
      _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(eight))));
#elif defined(__SSE2__)
  int four;
  std::memcpy(&four, &bytes, sizeof four);
  const __m128i zero = _mm_setzero_si128();
  const __m128i words = _mm_unpacklo_epi8(_mm_cvtsi32_si128(four), zero);
  return reinterpret_cast<Mask>(_mm_unpacklo_epi16(words, zero));
#else
  return __builtin_convertvector(bytes, Mask);
#endif
}

XCEPTION_INLINE void store_bytes(uint8_t* to, Mask value, int count = kLanes) {
  const Bytes bytes = __builtin_convertvector(value, Bytes);
  std::memcpy(to, &bytes, static_cast<size_t>(count));
}

}  // namespace XCEPTION_ISA
