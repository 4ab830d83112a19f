#include "parallel.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include <algorithm>
#include <atomic>

namespace xception {
namespace {

std::atomic<TeamEntry> team_entry{nullptr};
std::atomic<bool> is_forked{false};

void note_fork() { is_forked.store(true, std::memory_order_relaxed); }

// From the moment at which the kernels are loaded.
#if defined(__unix__) || defined(__APPLE__)
const int fork_is_noted = pthread_atfork(nullptr, nullptr, note_fork);
#endif

TeamEntry usable_entry() {
  if (is_forked.load(std::memory_order_relaxed)) return nullptr;
  return team_entry.load(std::memory_order_relaxed);
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

void use_team(TeamEntry entry) { team_entry.store(entry, std::memory_order_relaxed); }

void run_parts(int parts, int threads, void (*body)(int, void*), void* context) {
  Team team{{0}, parts, body, context};
  const int useful = std::min(parts, threads);
  const TeamEntry entry = useful > 1 ? usable_entry() : nullptr;
  if (entry) {
    entry(work, &team, static_cast<unsigned>(useful), 0);
  } else {
    work(&team);
  }
}

const char* threading_name() {
  if (usable_entry()) return "OpenMP of this process";
  return is_forked.load(std::memory_order_relaxed) ? "none after a fork" : "none";
}

}  // namespace xception
