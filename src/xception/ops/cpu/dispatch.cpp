#include "dispatch.hpp"

#include <atomic>

namespace baseline { extern const xception::Kernels kernels; }
#if defined(XCEPTION_HAS_AVX2)
namespace avx2 { extern const xception::Kernels kernels; }
#endif
#if defined(XCEPTION_HAS_AVX512)
namespace avx512 { extern const xception::Kernels kernels; }
#endif

namespace xception {
namespace {

// Names of levels are those of the x86-64 psABI: v3 has AVX2 and FMA, v4 the AVX-512 of servers.
std::vector<const Kernels*> usable() {
  std::vector<const Kernels*> found{&baseline::kernels};
#if defined(XCEPTION_HAS_AVX2)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    found.push_back(&avx2::kernels);
#endif
#if defined(XCEPTION_HAS_AVX512)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512cd"))
    found.push_back(&avx512::kernels);
#endif
  return found;
}

std::atomic<const Kernels*>& current() {
  static std::atomic<const Kernels*> chosen{usable().back()};
  return chosen;
}

}  // namespace

std::vector<std::string> usable_instruction_sets() {
  std::vector<std::string> names;
  for (const Kernels* kernels : usable()) names.emplace_back(kernels->name);
  return names;
}

const Kernels& kernels() { return *current().load(std::memory_order_relaxed); }

bool use_instruction_set(const std::string& name) {
  for (const Kernels* kernels : usable())
    if (name == kernels->name) {
      current().store(kernels, std::memory_order_relaxed);
      return true;
    }
  return false;
}

}  // namespace xception
