// The two matrix products, on panels of 32 channels.
//
// A panel matrix of M rows and K columns is stored [K / 32][M][32]. In that order a row's 32
// columns lie together, so it serves as the left factor of `multiply` (columns summed over) and as
// either factor of `multiply_transposed` (rows summed over) without being packed again.
#pragma once

#include <algorithm>

#include "prefetch.hpp"
#include "simd.hpp"

namespace XCEPTION_ISA {

#if defined(__AVX512F__)
constexpr int kRows = 12;     // 24 of 32 registers hold sums
constexpr int kVectors = 2;
constexpr int kOuterRows = 8;
constexpr int kDepth = 256;   // columns that `multiply` sums over at a time
constexpr int kOuterDepth = 1 << 20;  // rows that `multiply_transposed` does: all
#elif defined(__aarch64__)
constexpr int kRows = 6;      // 24 of 32
constexpr int kVectors = 4;
constexpr int kOuterRows = 4;
constexpr int kDepth = 256;
constexpr int kOuterDepth = 1 << 20;
#elif defined(__AVX__)
constexpr int kRows = 6;      // 12 of 16
constexpr int kVectors = 2;
constexpr int kOuterRows = 6;
constexpr int kDepth = 64;
constexpr int kOuterDepth = 96;
#else
constexpr int kRows = 4;      // 8 of 16, since a product without FMA needs one more
constexpr int kVectors = 2;
constexpr int kOuterRows = 4;
constexpr int kDepth = 256;
constexpr int kOuterDepth = 1 << 20;
#endif
constexpr int kColumns = kVectors * kLanes;
// The depths are such that what is read again and again stays in the first cache; measured where a
// machine was at hand (AVX2 and AVX-512).

// c[Rows][kColumns] (+)= a[Rows][depth] * b[depth][kColumns], row strides 32 in a, b and c.
// a continues `panel_stride` floats further on after every 32 columns. ahead: see prefetch.hpp.
template <int Rows, bool Ahead>
XCEPTION_INLINE void multiply_block(const float* a, size_t panel_stride, const float* b, int depth,
                                    float* c, bool add, const char* ahead) {
  Vector sum[Rows][kVectors];
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < kVectors; ++v)
      sum[r][v] = Vector{};
  for (; depth > 0; depth -= kPanel, a += panel_stride) {
    const float* column = a;
    const int count = std::min(depth, kPanel);
#pragma GCC unroll 4
    for (int k = 0; k < count; ++k, ++column, b += kPanel) {
      Prefetcher::ask<Ahead>(ahead, k);
      Vector right[kVectors];
      for (int v = 0; v < kVectors; ++v) right[v] = load(b + v * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        const Vector left = broadcast(column[r * kPanel]);
        for (int v = 0; v < kVectors; ++v) sum[r][v] += left * right[v];
      }
    }
  }
  // Sums of parts are added to the total: closer to the true sum than one long chain.
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < kVectors; ++v) {
      float* to = c + r * kPanel + v * kLanes;
      store(to, add ? load(to) + sum[r][v] : sum[r][v]);
    }
}

template <int Rows>
void multiply_tail(int rows, const float* a, size_t panel_stride, const float* b, int depth,
                   float* c, bool add) {
  if (rows == Rows) {
    multiply_block<Rows, false>(a, panel_stride, b, depth, c, add, nullptr);
  } else if constexpr (Rows > 1) {
    multiply_tail<Rows - 1>(rows, a, panel_stride, b, depth, c, add);
  }
}

// c[rows][channels] = a[rows][depth] * b[depth][channels], of one panel; a a panel matrix of `a_rows`
// rows, from its row 0.
inline void multiply(const float* a, int rows, size_t a_rows, const float* b, int depth,
                     int channels, float* c, Prefetcher& prefetcher) {
  const size_t panel_stride = a_rows * kPanel;
  for (int k0 = 0; k0 < depth; k0 += kDepth) {
    const int part = std::min(kDepth, depth - k0);
    const float* a_part = a + static_cast<size_t>(k0 / kPanel) * panel_stride;
    const bool add = k0 > 0;
    for (int column = 0; column < channels; column += kColumns) {
      const float* b_part = b + static_cast<size_t>(k0) * kPanel + column;
      int row = 0;
      for (; row + kRows <= rows; row += kRows) {
        const float* a_row = a_part + row * kPanel;
        float* c_row = c + row * kPanel + column;
        if (const char* ahead = prefetcher.take(part)) {
          multiply_block<kRows, true>(a_row, panel_stride, b_part, part, c_row, add, ahead);
        } else {
          multiply_block<kRows, false>(a_row, panel_stride, b_part, part, c_row, add, nullptr);
        }
      }
      if (row < rows)
        multiply_tail<kRows - 1>(rows - row, a_part + row * kPanel, panel_stride, b_part, part,
                                 c + row * kPanel + column, add);
    }
  }
}

// c[Columns of a][kColumns] += transpose(a)[..][rows] * b[rows][kColumns], row strides all 32.
template <int Columns, bool Ahead>
XCEPTION_INLINE void transposed_block(const float* a, const float* b, int rows, float* c,
                                      const char* ahead) {
  Vector sum[Columns][kVectors];
  for (int r = 0; r < Columns; ++r)
    for (int v = 0; v < kVectors; ++v) sum[r][v] = Vector{};
#pragma GCC unroll 4
  for (int m = 0; m < rows; ++m, a += kPanel, b += kPanel) {
    Prefetcher::ask<Ahead>(ahead, m);
    Vector right[kVectors];
    for (int v = 0; v < kVectors; ++v) right[v] = load(b + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < Columns; ++r) {
      const Vector left = broadcast(a[r]);
      for (int v = 0; v < kVectors; ++v) sum[r][v] += left * right[v];
    }
  }
  for (int r = 0; r < Columns; ++r)
    for (int v = 0; v < kVectors; ++v) {
      float* to = c + r * kPanel + v * kLanes;
      store(to, load(to) + sum[r][v]);
    }
}

template <int Columns>
XCEPTION_INLINE void transposed_columns(const float* a, const float* b, int rows, float* c,
                                        Prefetcher& prefetcher) {
  if (const char* ahead = prefetcher.take(rows)) {
    transposed_block<Columns, true>(a, b, rows, c, ahead);
  } else {
    transposed_block<Columns, false>(a, b, rows, c, nullptr);
  }
}

// c[a_channels][b_channels] += transpose(a) * b for one panel of each factor, both of `count` rows.
inline void multiply_transposed(const float* a, int a_channels, const float* b, int b_channels,
                                int count, float* c, Prefetcher& prefetcher) {
  // Blocks of kOuterRows, then two smaller ones: a last one that is too small waits for its sums.
  constexpr int kRest = kPanel % kOuterRows;
  constexpr int kSmaller = kRest ? (kRest + kOuterRows) / 2 : kOuterRows;
  constexpr int kLarger = kRest ? kPanel - 2 * kSmaller : kPanel;
  static_assert(kLarger % kOuterRows == 0);
  for (int rows; count > 0; count -= rows, a += rows * kPanel, b += rows * kPanel) {
    rows = std::min(count, kOuterDepth);
    for (int column = 0; column < b_channels; column += kColumns) {
      for (int r = 0; r < std::min(kLarger, a_channels); r += kOuterRows)
        transposed_columns<kOuterRows>(a + r, b + column, rows, c + r * kPanel + column,
                                       prefetcher);
      for (int r = kLarger; r < a_channels; r += kSmaller)
        transposed_columns<kSmaller>(a + r, b + column, rows, c + r * kPanel + column, prefetcher);
    }
  }
}

}  // namespace XCEPTION_ISA
