// Shapes that go every way through the kernels: whole and cut panels, tiles, strips and pools.
#pragma once

#include <string>
#include <vector>

#include "shape.hpp"

struct UnitCase {
  std::string name;
  xception::UnitShape shape;
  bool affine = true, depthwise = true, pointwise = true, statistics = true, wants_x = true;
};

enum class Skip { kNone, kPlain, kScaled };

struct MergeCase {
  std::string name;
  xception::MergeShape shape;
  Skip skip;
};

// Of one axis: kernel, stride, padding before and after, dilation.
struct Axis {
  int kernel = 3, stride = 1, before = 1, after = 1, dilation = 1;
  int64_t outputs(int64_t size) const {
    return (size + before + after - (kernel - 1) * dilation - 1) / stride + 1;
  }
};

// x: n, h, w, c
inline xception::UnitShape unit_shape(const int64_t (&x)[4], int64_t o, const Axis& rows,
                                      const Axis& columns, xception::Activation activation) {
  return {x[0], x[1], x[2], x[3], rows.outputs(x[1]), columns.outputs(x[2]), o, rows.kernel,
          columns.kernel, rows.stride, columns.stride, rows.before, columns.before,
          rows.dilation, columns.dilation, activation};
}

inline std::vector<UnitCase> unit_cases(bool large) {
  using xception::Activation;
  const auto none = Activation::kNone, relu = Activation::kRelu, relu6 = Activation::kRelu6;
  const Axis same, valid{3, 1, 0, 0}, strided{3, 2, 1, 1}, dilated{3, 1, 2, 2, 2};
  const Axis point{1, 1, 0, 0}, strided_point{1, 2, 0, 0}, wide{7, 1, 3, 3};
  const Axis lopsided{2, 3, 0, 1}, far{3, 2, 4, 3, 2}, padded_point{1, 2, 1, 2};
  std::vector<UnitCase> cases;
  for (const int64_t c : {1, 3, 8, 9, 16, 17, 24, 31, 32, 33, 64, 91})
    cases.push_back({"3x3 of " + std::to_string(c) + " channels",
                     unit_shape({2, 7, 6, c}, c % 2 ? 91 : 32, same, same, relu)});
  for (const int64_t o : {1, 3, 7, 8, 15, 16, 17, 25, 31, 33})
    cases.push_back({"3x3 to " + std::to_string(o) + " channels",
                     unit_shape({2, 6, 7, 33}, o, same, same, relu6)});
  const std::vector<UnitCase> others = {
      {"several tiles", unit_shape({2, 40, 37, 33}, 40, same, same, relu)},
      {"a long row", unit_shape({1, 3, 1100, 3}, 31, same, same, none)},
      {"many small pictures", unit_shape({37, 3, 2, 31}, 33, same, same, relu6)},
      {"sums of 300", unit_shape({1, 5, 5, 300}, 290, same, same, relu)},
      {"one pixel", unit_shape({1, 1, 1, 3}, 3, same, same, relu)},
      {"stride 2", unit_shape({2, 9, 8, 33}, 31, strided, strided, relu)},
      {"dilation 2", unit_shape({2, 12, 11, 33}, 31, dilated, dilated, relu)},
      {"no padding", unit_shape({2, 8, 9, 32}, 32, valid, valid, none)},
      {"padding beyond the kernel", unit_shape({2, 6, 5, 33}, 3, far, far, relu6)},
      {"7x3", unit_shape({1, 30, 29, 33}, 31, wide, same, relu)},
      {"even and lopsided", unit_shape({2, 7, 8, 31}, 33, lopsided, dilated, relu)},
      {"hardswish", unit_shape({2, 7, 6, 33}, 31, same, same, Activation::kHardswish)},
      {"silu", unit_shape({2, 7, 6, 33}, 31, same, same, Activation::kSilu)},
      {"no scale", unit_shape({2, 7, 6, 33}, 31, same, same, relu), false},
      {"no depthwise", unit_shape({2, 9, 8, 33}, 91, point, point, relu), true, false},
      {"no depthwise, stride 2", unit_shape({2, 9, 8, 33}, 64, strided_point, strided_point, relu),
       true, false},
      {"no depthwise, padded", unit_shape({2, 5, 4, 3}, 31, padded_point, padded_point, none),
       true, false},
      {"no pointwise", unit_shape({2, 20, 21, 33}, 33, same, same, relu), true, true, false},
      {"no pointwise, stride 2", unit_shape({2, 9, 8, 64}, 64, strided, strided, relu6), true,
       true, false},
      {"neither", unit_shape({2, 5, 4, 33}, 33, point, strided_point, relu6), true, false, false},
      {"no statistics", unit_shape({2, 7, 6, 91}, 33, same, same, relu), true, true, true, false},
      {"no gradient of x", unit_shape({2, 7, 6, 33}, 31, same, same, relu), true, true, true, true,
       false},
      {"weights alone", unit_shape({2, 7, 6, 33}, 31, same, same, relu), false, true, true, false,
       false},
  };
  cases.insert(cases.end(), others.begin(), others.end());
  if (large)
    cases.push_back({"y past the caches", unit_shape({1, 445, 444, 3}, 32, point, point, relu),
                     true, false});
  return cases;
}

inline xception::MergeShape merge_shape(const int64_t (&y)[4], const Axis& rows,
                                        const Axis& columns, xception::Activation activation) {
  const bool has_pool = rows.kernel > 0;
  return {y[0], y[1], y[2], y[3], has_pool ? rows.outputs(y[1]) : y[1],
          has_pool ? columns.outputs(y[2]) : y[2], rows.kernel, columns.kernel, rows.stride,
          columns.stride, rows.before, columns.before, rows.dilation, columns.dilation,
          activation};
}

inline std::vector<MergeCase> merge_cases(bool large) {
  using xception::Activation;
  const auto none = Activation::kNone, relu = Activation::kRelu, relu6 = Activation::kRelu6;
  const Axis no_pool{0, 1, 0, 0}, pool{3, 2, 1, 1}, keras{3, 2, 0, 1}, even{2, 2, 0, 0};
  const Axis dilated{3, 1, 2, 2, 2}, wide{5, 3, 2, 2};
  std::vector<MergeCase> cases;
  for (const int64_t c : {1, 3, 31, 32, 33, 64, 91}) {
    const std::string channels = " of " + std::to_string(c) + " channels";
    cases.push_back({"merge" + channels, merge_shape({2, 7, 6, c}, no_pool, no_pool, relu),
                     Skip::kPlain});
    cases.push_back({"pool" + channels, merge_shape({2, 9, 8, c}, pool, pool, none),
                     Skip::kScaled});
  }
  const std::vector<MergeCase> others = {
      {"merge without skip", merge_shape({1, 5, 5, 33}, no_pool, no_pool, relu6), Skip::kNone},
      {"merge with a scaled skip", merge_shape({70, 2, 3, 33}, no_pool, no_pool, relu6),
       Skip::kScaled},
      {"pool padded at its end", merge_shape({2, 10, 11, 33}, keras, pool, relu), Skip::kScaled},
      {"2x2 pool without skip", merge_shape({2, 9, 8, 31}, even, even, relu), Skip::kNone},
      {"dilated pool", merge_shape({2, 9, 8, 33}, dilated, dilated, relu6), Skip::kPlain},
      {"5x3 pool", merge_shape({3, 40, 37, 40}, wide, pool, none), Skip::kScaled},
  };
  cases.insert(cases.end(), others.begin(), others.end());
  if (large)
    cases.push_back({"gradient past the caches", merge_shape({1, 445, 444, 32}, even, even, relu),
                     Skip::kNone});
  return cases;
}
