#include "parallel.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#endif

#include <algorithm>
#include <atomic>

namespace xception {
namespace {

// The entry that compilers emit for `#pragma omp parallel`; libomp offers it too.
using Fork = void (*)(void (*body)(void*), void* context, unsigned threads, unsigned flags);

Fork find_fork() {
#if defined(__unix__) || defined(__APPLE__)
  const char* names[] = {"libgomp.so.1", "libomp.so", "libomp.so.5", "libiomp5.so",
                         "libomp.dylib"};
  for (const char* name : names)
    if (void* library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD))
      if (void* symbol = dlsym(library, "GOMP_parallel")) return reinterpret_cast<Fork>(symbol);
  if (void* symbol = dlsym(RTLD_DEFAULT, "GOMP_parallel")) return reinterpret_cast<Fork>(symbol);
#endif
  return nullptr;
}

Fork fork_entry() {
  static const Fork entry = find_fork();
  return entry;
}

struct Team {
  std::atomic<int> next;
  int parts;
  void (*body)(int, void*);
  void* context;
};

void work(void* pointer) {
  Team& team = *static_cast<Team*>(pointer);
  for (int part; (part = team.next.fetch_add(1, std::memory_order_relaxed)) < team.parts;)
    team.body(part, team.context);
}

}  // namespace

void run_parts(int parts, int threads, void (*body)(int, void*), void* context) {
  Team team{{0}, parts, body, context};
  const int useful = std::min(parts, threads);
  const Fork entry = useful > 1 ? fork_entry() : nullptr;
  if (entry) {
    entry(work, &team, static_cast<unsigned>(useful), 0);
  } else {
    work(&team);
  }
}

const char* threading_name() { return fork_entry() ? "OpenMP of this process" : "none"; }

}  // namespace xception
