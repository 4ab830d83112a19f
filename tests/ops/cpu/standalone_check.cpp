// The kernels without Python or torch: each instruction set of a machine against reference.hpp.
//
//     standalone_check [--large] [instruction set]...     (default: all that are usable here)
//
// --large: also outputs of 24 MB, which go past the caches
//
// Prints one line for each set and exits with 0, or prints what is wrong and exits with 1. What it
// gives the kernels lies in blocks of exactly its size and what they are to write is NaN before, so
// a sanitizer sees what is read or written past an end, and a comparison what is left unwritten.
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>

#include "cases.hpp"
#include "dispatch.hpp"
#include "parallel.hpp"
#include "reference.hpp"

namespace {

using reference::Doubles;
using reference::Floats;

// float32 against double: sums of some thousand products of numbers around 1.
constexpr double kBound = 2e-6;
// Of the sum of squared distances, which is taken tile by tile.
constexpr double kSquaresBound = 1e-5;
constexpr int kFailuresTold = 10;  // of an instruction set

// A team without OpenMP, whose starts and ends a ThreadSanitizer understands.
void start_team(void (*body)(void*), void* context, unsigned threads, unsigned) {
  std::vector<std::thread> team;
  for (unsigned i = 1; i < threads; ++i) team.emplace_back(body, context);
  body(context);
  for (std::thread& member : team) member.join();
}

// Multiples of 1/8, 1/16, 1/256: x * scale + shift is exact in float32 and never at a kink of an
// activation, where rounding would decide the gradient.
class Numbers {
 public:
  explicit Numbers(unsigned seed) : generator_(seed) {}

  Floats scales(size_t count) {
    return filled(count, [&] { return (whole(0, 1) ? 1 : -1) * whole(1, 16) / 8.0f; });
  }
  Floats shifts(size_t count) { return filled(count, [&] { return odd(512) / 256.0f; }); }
  Floats inputs(size_t count) { return filled(count, [&] { return odd(64) / 16.0f; }); }
  Floats weights(size_t count) {
    std::uniform_real_distribution<float> any(-1.0f, 1.0f);
    return filled(count, [&] { return any(generator_); });
  }

 private:
  int whole(int from, int to) { return std::uniform_int_distribution<int>(from, to)(generator_); }
  int odd(int largest) { return 2 * whole(-largest / 2, largest / 2 - 1) + 1; }
  template <typename Make>
  static Floats filled(size_t count, const Make& make) {
    Floats out(count);
    std::generate(out.begin(), out.end(), make);
    return out;
  }
  std::mt19937 generator_;
};

Floats unwritten(size_t count) { return Floats(count, NAN); }
const float* given(const Floats& floats) { return floats.empty() ? nullptr : floats.data(); }
float* wanted(Floats& floats) { return floats.empty() ? nullptr : floats.data(); }

void check(int failed) {
  if (failed) throw std::bad_alloc();
}

// Results of one call by name, and what they should be.
struct Result {
  const char* name;
  Floats found;
  const Doubles* expected;
  double bound = kBound;
};
using Results = std::vector<Result>;

// One shape with its numbers, and what comes out of them.
class Check {
 public:
  explicit Check(const std::string& called) : name(called) {}
  virtual ~Check() = default;
  // Forward and backward by the kernels in use.
  virtual Results run(int threads) const = 0;
  const std::string name;
};

class UnitCheck : public Check {
 public:
  explicit UnitCheck(const UnitCase& unit) : Check(unit.name), unit_(unit) {
    const xception::UnitShape& s = unit.shape;
    Numbers numbers(1);
    in_.x = numbers.inputs(s.n * s.h * s.w * s.c);
    in_.in_scale = numbers.scales(unit.affine ? s.c : 0);
    in_.in_shift = numbers.shifts(unit.affine ? s.c : 0);
    in_.depthwise = numbers.weights(unit.depthwise ? s.c * s.kernel_h * s.kernel_w : 0);
    in_.pointwise = numbers.weights(unit.pointwise ? s.o * s.c : 0);
    exact_ = reference::unit(s, in_);
    grad_y_ = numbers.weights(exact_.y.size());
    Doubles arriving(grad_y_.begin(), grad_y_.end());
    if (unit.statistics) {
      y_.assign(exact_.y.begin(), exact_.y.end());
      mean_.assign(exact_.mean.begin(), exact_.mean.end());
      offset_ = numbers.weights(s.o);
      slope_ = numbers.weights(s.o);
      for (size_t i = 0; i < arriving.size(); ++i) {
        const size_t o = i % s.o;
        arriving[i] += offset_[o] + double{slope_[o]} * (double{y_[i]} - mean_[o]);
      }
    }
    gradients_ = reference::unit_backward(s, in_, arriving);
  }

  Results run(int threads) const override {
    const xception::UnitShape& s = unit_.shape;
    const xception::Kernels& kernels = xception::kernels();
    Floats y = unwritten(exact_.y.size()), mean = unwritten(mean_.size()), squares = mean;
    check(kernels.forward({s, given(in_.x), given(in_.in_scale), given(in_.in_shift),
                           given(in_.depthwise), given(in_.pointwise), wanted(y), wanted(mean),
                           wanted(squares), threads}));
    Floats x = unwritten(unit_.wants_x ? in_.x.size() : 0);
    Floats in_scale = unwritten(in_.in_scale.size()), in_shift = in_scale;
    Floats depthwise = unwritten(in_.depthwise.size());
    Floats pointwise = unwritten(in_.pointwise.size());
    check(kernels.backward({s, given(grad_y_), given(y_), given(mean_), given(offset_),
                            given(slope_), given(in_.x), given(in_.in_scale), given(in_.in_shift),
                            given(in_.depthwise), given(in_.pointwise), wanted(x),
                            wanted(in_scale), wanted(in_shift), wanted(depthwise),
                            wanted(pointwise), threads}));
    return {{"y", y, &exact_.y},
            {"mean", mean, &exact_.mean},
            {"squares", squares, &exact_.squares, kSquaresBound},
            {"grad_x", x, &gradients_.x},
            {"grad_in_scale", in_scale, &gradients_.in_scale},
            {"grad_in_shift", in_shift, &gradients_.in_shift},
            {"grad_depthwise", depthwise, &gradients_.depthwise},
            {"grad_pointwise", pointwise, &gradients_.pointwise}};
  }

 private:
  const UnitCase unit_;
  reference::UnitInputs in_;
  reference::UnitOutputs exact_;
  reference::UnitGradients gradients_;
  Floats grad_y_, y_, mean_, offset_, slope_;
};

class MergeCheck : public Check {
 public:
  explicit MergeCheck(const MergeCase& merge) : Check(merge.name), merge_(merge) {
    const xception::MergeShape& s = merge.shape;
    const size_t outputs = s.n * s.p * s.q * s.c, factors = merge.skip == Skip::kScaled ? s.c : 0;
    Numbers numbers(2);
    in_ = {numbers.inputs(s.n * s.h * s.w * s.c), numbers.scales(s.c), numbers.shifts(s.c),
           numbers.inputs(merge.skip == Skip::kNone ? 0 : outputs), numbers.scales(factors),
           numbers.shifts(factors)};
    exact_ = reference::merge(s, in_);
    grad_out_ = numbers.weights(outputs);
    gradients_ = reference::merge_backward(s, in_, exact_, grad_out_);
  }

  Results run(int threads) const override {
    const xception::MergeShape& s = merge_.shape;
    const xception::Kernels& kernels = xception::kernels();
    Floats out = unwritten(grad_out_.size());
    std::vector<uint8_t> winners(s.kernel_h > 0 ? out.size() : 0, 255);
    uint8_t* places = winners.empty() ? nullptr : winners.data();
    check(kernels.merge({s, given(in_.y), given(in_.scale), given(in_.shift), given(in_.skip),
                         given(in_.skip_scale), given(in_.skip_shift), wanted(out), places,
                         threads}));
    const bool is_linear = s.activation == xception::Activation::kNone;
    Floats y = unwritten(in_.y.size()), scale = unwritten(s.c), shift = scale;
    Floats skip = unwritten(in_.skip.size());
    Floats skip_scale = unwritten(in_.skip_scale.size()), skip_shift = skip_scale;
    check(kernels.merge_backward({s, given(grad_out_), is_linear ? nullptr : given(out),
                                  given(in_.y), given(in_.scale), given(in_.skip),
                                  given(in_.skip_scale), places, wanted(y), wanted(scale),
                                  wanted(shift), wanted(skip), wanted(skip_scale),
                                  wanted(skip_shift), threads}));
    return {{"out", out, &exact_.out},
            {"grad_y", y, &gradients_.y},
            {"grad_scale", scale, &gradients_.scale},
            {"grad_shift", shift, &gradients_.shift},
            {"grad_skip", skip, &gradients_.skip},
            {"grad_skip_scale", skip_scale, &gradients_.skip_scale},
            {"grad_skip_shift", skip_shift, &gradients_.skip_shift}};
  }

 private:
  const MergeCase merge_;
  reference::MergeInputs in_;
  reference::MergeOutputs exact_;
  reference::MergeGradients gradients_;
  Floats grad_out_;
};

// The largest error of a result as a share of what is allowed; not a number where one is left out.
double share_of_bound(const Result& result) {
  double largest = 1.0, error = 0.0;
  for (size_t i = 0; i < result.found.size(); ++i) {
    largest = std::max(largest, std::fabs((*result.expected)[i]));
    const double distance = std::fabs(result.found[i] - (*result.expected)[i]);
    if (!(distance <= error)) error = distance;
  }
  return error / (result.bound * largest);
}

struct Tally {
  int calls = 0, wrong = 0;
  double worst = 0.0;

  void fail(const std::string& name, const char* result, const std::string& why) {
    if (++wrong > kFailuresTold) return;
    std::printf("%s: %s, %s: %s\n", xception::kernels().name, name.c_str(), result, why.c_str());
  }

  void take(const std::string& name, int threads, const Results& once, const Results& again) {
    ++calls;
    for (size_t i = 0; i < once.size(); ++i) {
      const Floats &first = once[i].found, &second = again[i].found;
      const double share = share_of_bound(once[i]);
      if (!(share <= 1.0))
        fail(name, once[i].name, "off by " + std::to_string(share) + " times what is allowed, " +
                                     std::to_string(threads) + " threads");
      if (!first.empty() && std::memcmp(first.data(), second.data(), sizeof(float) * first.size()))
        fail(name, once[i].name, "other bits the second time");
      worst = std::max(worst, share);
    }
  }
};

using Checks = std::vector<std::unique_ptr<Check>>;

Checks all_checks(bool large) {
  Checks checks;
  for (const UnitCase& unit : unit_cases(large))
    checks.push_back(std::make_unique<UnitCheck>(unit));
  for (const MergeCase& merge : merge_cases(large))
    checks.push_back(std::make_unique<MergeCheck>(merge));
  return checks;
}

// Each by itself; then all again, two at once from threads of their own.
bool go_through(const Checks& checks) {
  Tally tally;
  std::vector<Results> alone, beside(checks.size());
  for (const auto& each : checks) {
    tally.take(each->name, 1, each->run(1), each->run(1));
    alone.push_back(each->run(3));
    tally.take(each->name, 3, alone.back(), each->run(3));
  }
  const auto every_second = [&](size_t first) {
    for (size_t i = first; i < checks.size(); i += 2) beside[i] = checks[i]->run(3);
  };
  std::thread other(every_second, 1);
  every_second(0);
  other.join();
  for (size_t i = 0; i < checks.size(); ++i)
    tally.take(checks[i]->name + ", two at once", 3, alone[i], beside[i]);
  std::printf("%s: %d calls, %d wrong, largest error %.2f of what is allowed\n",
              xception::kernels().name, tally.calls, tally.wrong, tally.worst);
  return tally.wrong == 0;
}

}  // namespace

int main(int count, char** words) {
  const bool large = count > 1 && std::string(words[1]) == "--large";
  std::vector<std::string> names(words + 1 + large, words + count);
  if (names.empty()) names = xception::usable_instruction_sets();
  xception::use_team(start_team);
  const Checks checks = all_checks(large);
  bool all_right = true;
  for (const std::string& name : names) {
    if (!xception::use_instruction_set(name)) {
      std::fprintf(stderr, "%s: not usable on this machine\n", name.c_str());
      return 2;
    }
    all_right = go_through(checks) && all_right;
  }
  return all_right ? 0 : 1;
}
