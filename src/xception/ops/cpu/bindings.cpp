// What Python sees: addresses and sizes that ops/kernels.py has checked against each other.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <new>

#include "dispatch.hpp"
#include "parallel.hpp"

namespace nb = nanobind;

namespace {

using Address = uintptr_t;

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

int narrow(int64_t value) { return static_cast<int>(value); }

xception::UnitShape unit_shape(const std::array<int64_t, 16>& v) {
  return {v[0], v[1], v[2], v[3], v[4], v[5], v[6], narrow(v[7]), narrow(v[8]), narrow(v[9]),
          narrow(v[10]), narrow(v[11]), narrow(v[12]), narrow(v[13]), narrow(v[14]),
          static_cast<xception::Activation>(v[15])};
}

xception::MergeShape merge_shape(const std::array<int64_t, 15>& v) {
  return {v[0], v[1], v[2], v[3], v[4], v[5], narrow(v[6]), narrow(v[7]), narrow(v[8]),
          narrow(v[9]), narrow(v[10]), narrow(v[11]), narrow(v[12]), narrow(v[13]),
          static_cast<xception::Activation>(v[14])};
}

void use_team(Address entry) {
  xception::use_team(reinterpret_cast<xception::TeamEntry>(entry));
}

void check(int failed) {
  if (failed) throw std::bad_alloc();
}

void unit(const std::array<int64_t, 16>& shape, const std::array<Address, 8>& v, int threads) {
  check(xception::kernels().forward({unit_shape(shape), at<const float>(v[0]),
                                     at<const float>(v[1]), at<const float>(v[2]),
                                     at<const float>(v[3]), at<const float>(v[4]), at<float>(v[5]),
                                     at<float>(v[6]), at<float>(v[7]), threads}));
}

void unit_backward(const std::array<int64_t, 16>& shape, const std::array<Address, 15>& v,
                   int threads) {
  check(xception::kernels().backward(
      {unit_shape(shape), at<const float>(v[0]), at<const float>(v[1]), at<const float>(v[2]),
       at<const float>(v[3]), at<const float>(v[4]), at<const float>(v[5]), at<const float>(v[6]),
       at<const float>(v[7]), at<const float>(v[8]), at<const float>(v[9]), at<float>(v[10]),
       at<float>(v[11]), at<float>(v[12]), at<float>(v[13]), at<float>(v[14]), threads}));
}

void merge(const std::array<int64_t, 15>& shape, const std::array<Address, 8>& v, int threads) {
  check(xception::kernels().merge({merge_shape(shape), at<const float>(v[0]),
                                   at<const float>(v[1]), at<const float>(v[2]),
                                   at<const float>(v[3]), at<const float>(v[4]),
                                   at<const float>(v[5]), at<float>(v[6]), at<uint8_t>(v[7]),
                                   threads}));
}

void merge_backward(const std::array<int64_t, 15>& shape, const std::array<Address, 13>& v,
                    int threads) {
  check(xception::kernels().merge_backward(
      {merge_shape(shape), at<const float>(v[0]), at<const float>(v[1]), at<const float>(v[2]),
       at<const float>(v[3]), at<const float>(v[4]), at<const float>(v[5]),
       at<const uint8_t>(v[6]), at<float>(v[7]), at<float>(v[8]), at<float>(v[9]), at<float>(v[10]),
       at<float>(v[11]), at<float>(v[12]), threads}));
}

}  // namespace

NB_MODULE(_cpu, module) {
  using Released = nb::call_guard<nb::gil_scoped_release>;
  module.def("unit", unit, Released());
  module.def("unit_backward", unit_backward, Released());
  module.def("merge", merge, Released());
  module.def("merge_backward", merge_backward, Released());
  module.def("usable_instruction_sets", xception::usable_instruction_sets);
  module.def("use_instruction_set", xception::use_instruction_set);
  module.def("instruction_set", [] { return std::string(xception::kernels().name); });
  module.def("use_team", use_team);
  module.def("threading_name", xception::threading_name);
}
