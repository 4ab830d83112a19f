// What one call computes: the plain description that crosses from Python to the kernels.
#pragma once

#include <cstdint>

namespace xception {

// `merge` knows the first three alone: their gradient follows from what they give.
enum class Activation : int { kNone = 0, kRelu = 1, kRelu6 = 2, kHardswish = 3, kSilu = 4 };

// y = pointwise * (depthwise * activation(x * in_scale + in_shift)), zeros around the activated x.
// Tensors are float32. Legend of axes: n picture, h w height and width of x, c its channels,
// p q height and width of y, o channels of y, k place in the depthwise kernel, row by row.
struct UnitShape {
  int64_t n, h, w, c;  // x is (n, h, w, c) in memory: channels last
  int64_t p, q, o;     // y is (n, p, q, o)
  int kernel_h, kernel_w;
  int stride_h, stride_w;
  int pad_top, pad_left;  // what lies below and to the right follows from p and q
  int dilation_h, dilation_w;
  Activation activation;
};

struct ForwardArguments {
  UnitShape shape;
  const float* x;          // (n, h, w, c)
  const float* in_scale;   // (c) or null: no scale and shift
  const float* in_shift;   // (c)
  const float* depthwise;  // (c, k) or null: no depthwise step
  const float* pointwise;  // (o, c) or null: no pointwise step, then o = c
  float* y;                // (n, p, q, o) or null: only the statistics are wanted
  float* mean;             // (o) or null: no statistics
  float* squares;          // (o), sum of squared distances from the mean
  int threads;
};

struct BackwardArguments {
  UnitShape shape;
  const float* grad_y;        // (n, p, q, o)
  const float* y;             // (n, p, q, o), read where there are gradients of statistics
  const float* mean;          // (o)
  const float* grad_offset;   // (o) or null; the gradient that arrives at y is
  const float* grad_slope;    // (o)          grad_y + grad_offset + grad_slope * (y - mean)
  const float* x;             // (n, h, w, c)
  const float* in_scale;      // (c) or null
  const float* in_shift;      // (c)
  const float* depthwise;     // (c, k) or null
  const float* pointwise;     // (o, c) or null
  float* grad_x;              // (n, h, w, c) or null: not wanted
  float* grad_in_scale;       // (c) or null
  float* grad_in_shift;       // (c)
  float* grad_depthwise;      // (c, k)
  float* grad_pointwise;      // (o, c)
  int threads;
};

// out = activation(pool(y * scale + shift) + (skip * skip_scale + skip_shift)), how a block ends.
struct MergeShape {
  int64_t n, h, w, c;  // y is (n, h, w, c)
  int64_t p, q;        // out is (n, p, q, c); without a pool that is y's own size
  int kernel_h, kernel_w;  // of the max pool; 0: none
  int stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
  Activation activation;
};

struct MergeArguments {
  MergeShape shape;
  const float* y;           // (n, h, w, c)
  const float* scale;       // (c)
  const float* shift;       // (c)
  const float* skip;        // (n, p, q, c) or null
  const float* skip_scale;  // (c) or null: skip is added as it is
  const float* skip_shift;  // (c)
  float* out;               // (n, p, q, c)
  uint8_t* winners;         // (n, p, q, c), place in the kernel of each maximum; null: no pool
  int threads;
};

struct MergeBackwardArguments {
  MergeShape shape;
  const float* grad_out;    // (n, p, q, c)
  const float* out;         // (n, p, q, c), read where there is an activation
  const float* y;           // (n, h, w, c)
  const float* scale;       // (c)
  const float* skip;        // (n, p, q, c), read where there is a skip_scale
  const float* skip_scale;  // (c) or null
  const uint8_t* winners;   // (n, p, q, c); null: no pool
  float* grad_y;            // (n, h, w, c)
  float* grad_scale;        // (c)
  float* grad_shift;        // (c)
  float* grad_skip;         // (n, p, q, c) or null: not wanted, or it equals grad_out
  float* grad_skip_scale;   // (c) or null
  float* grad_skip_shift;   // (c)
  int threads;
};

// Zero when done, else the kernels could not get memory.
using ForwardKernel = int (*)(const ForwardArguments&);
using BackwardKernel = int (*)(const BackwardArguments&);
using MergeKernel = int (*)(const MergeArguments&);
using MergeBackwardKernel = int (*)(const MergeBackwardArguments&);

// The kernels of one instruction set.
struct Kernels {
  const char* name;
  ForwardKernel forward;
  BackwardKernel backward;
  MergeKernel merge;
  MergeBackwardKernel merge_backward;
};

}  // namespace xception
