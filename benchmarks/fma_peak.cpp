// How many float32 operations a second the processor can do at most: independent chains of fused
// multiply-adds that never leave the registers. A multiply-add counts as two operations.
//
//     fma_peak THREADS MILLISECONDS      prints GFLOP/s of all threads together

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

// Enough chains to hide the latency of every unit, and no more than there are registers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kChains = 24;
#else
constexpr int kChains = 12;
#endif

typedef float Vector __attribute__((vector_size(kBytes)));
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point began) {
  return std::chrono::duration<double>(Clock::now() - began).count();
}

// GFLOP/s of one thread; factor and addend come from outside, so that nothing is known beforehand.
double chains_of_fma(float factor, float addend, double seconds) {
  Vector chain[kChains], by = factor - Vector{}, plus = addend - Vector{};
  for (int c = 0; c < kChains; ++c) chain[c] = float(c) - Vector{};
  constexpr long kSteps = 20000;
  long steps = 0;
  const auto began = Clock::now();
  double taken = 0;
  do {
    for (long step = 0; step < kSteps; ++step) {
#pragma GCC unroll 32
      for (int c = 0; c < kChains; ++c) chain[c] = chain[c] * by + plus;
    }
    steps += kSteps;
    taken = seconds_since(began);
  } while (taken < seconds);
  volatile float kept = 0;
  for (int c = 0; c < kChains; ++c) kept = kept + chain[c][0];
  return 2.0 * steps * kChains * (kBytes / sizeof(float)) / taken * 1e-9;
}

int main(int count, char** words) {
  if (count != 3) return 2;
  const int threads = std::atoi(words[1]);
  const double seconds = std::atof(words[2]) / 1000;
  volatile float factor = 0.999f, addend = 0.001f;
  std::vector<double> rates(threads);
  std::vector<std::thread> running;
  for (int t = 0; t < threads; ++t)
    running.emplace_back([&, t] { rates[t] = chains_of_fma(factor, addend, seconds); });
  for (auto& thread : running) thread.join();
  double sum = 0;
  for (double rate : rates) sum += rate;
  std::printf("%.1f\n", sum);
}
