// Activations and their gradients, on vectors. NaN and infinities come out as torch's do.
#pragma once

#include "shape.hpp"
#include "simd.hpp"

namespace XCEPTION_ISA {

using xception::Activation;

// e^x, within 2 units in the last place; 0 and infinity where float32 ends, NaN for NaN.
//
// x = n ln 2 + r with |r| <= ln 2 / 2, then Taylor's series to the seventh power, whose rest is
// below a tenth of a unit. ln 2 is taken away in two pieces, the first with zeros at its end (Cody
// and Waite 1980), and 2^n is multiplied in two halves, since it may itself be out of range.
XCEPTION_INLINE Vector exponential(Vector x) {
  const Vector highest = broadcast(89.0f), lowest = broadcast(-104.0f);
  x = x > highest ? highest : x;
  x = x < lowest ? lowest : x;
  // Added to 1.5 * 2^23, a small number is rounded to a whole one, which then lies in its low bits.
  const Vector rounder = broadcast(12582912.0f);
  const Vector shifted = x * broadcast(1.44269504f) + rounder;
  const Vector n = shifted - rounder;
  Vector r = x - n * broadcast(0.693359375f);
  r = r + n * broadcast(2.12194440e-4f);
  Vector sum = broadcast(1.0f / 5040.0f);
  sum = sum * r + broadcast(1.0f / 720.0f);
  sum = sum * r + broadcast(1.0f / 120.0f);
  sum = sum * r + broadcast(1.0f / 24.0f);
  sum = sum * r + broadcast(1.0f / 6.0f);
  sum = sum * r + broadcast(0.5f);
  sum = sum * r + broadcast(1.0f);
  sum = sum * r + broadcast(1.0f);
  const Mask power = reinterpret_cast<Mask>(shifted) - reinterpret_cast<Mask>(rounder);
  const Mask half = power >> 1;
  const Vector first = reinterpret_cast<Vector>((half + 127) << 23);
  const Vector second = reinterpret_cast<Vector>((power - half + 127) << 23);
  return sum * first * second;
}

XCEPTION_INLINE Vector sigmoid(Vector z) {
  const Vector one = broadcast(1.0f);
  return one / (one + exponential(-z));
}

// Comparisons are written so that NaN passes through, as it does in torch.
template <Activation A>
XCEPTION_INLINE Vector activate(Vector z) {
  if constexpr (A == Activation::kNone) return z;
  const Vector six = broadcast(6.0f);
  if constexpr (A == Activation::kSilu) return z * sigmoid(z);
  if constexpr (A == Activation::kHardswish) {
    Vector gate = z + broadcast(3.0f);
    gate = Vector{} > gate ? Vector{} : gate;
    gate = six < gate ? six : gate;
    return z * gate * broadcast(1.0f / 6.0f);
  }
  z = Vector{} > z ? Vector{} : z;
  if constexpr (A == Activation::kRelu6) z = six < z ? six : z;
  return z;
}

// The gradient before the activation, from the one behind it and the value before it.
template <Activation A>
XCEPTION_INLINE Vector activation_gradient(Vector gradient, Vector z) {
  if constexpr (A == Activation::kNone) return gradient;
  if constexpr (A == Activation::kSilu) {
    const Vector one = broadcast(1.0f), s = sigmoid(z);
    return gradient * s * (one + z * (one - s));
  }
  if constexpr (A == Activation::kHardswish) {
    const Vector three = broadcast(3.0f);
    const Vector inside = gradient * (z * broadcast(1.0f / 3.0f) + broadcast(0.5f));
    const Vector above = z >= three ? gradient : inside;
    return z <= -three ? Vector{} : above;
  }
  gradient = z <= Vector{} ? Vector{} : gradient;
  if constexpr (A == Activation::kRelu6) gradient = z >= broadcast(6.0f) ? Vector{} : gradient;
  return gradient;
}

}  // namespace XCEPTION_ISA
