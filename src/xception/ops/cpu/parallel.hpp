// Threads: those of the OpenMP runtime that torch has already started, asked for by address.
//
// A second pool beside torch's would fight with it for the cores, since a waiting OpenMP thread
// spins. So nothing is linked: who calls looks up the runtime that the process already holds, and
// where there is none the parts run one after the other.
#pragma once

namespace xception {

// What compilers emit for `#pragma omp parallel`, GOMP_parallel: calls body(context) on each of a
// team of threads, this one among them, and returns when all are done. libomp offers it, too.
using TeamEntry = void (*)(void (*body)(void*), void* context, unsigned threads, unsigned flags);

// Threads are asked of `entry` from now on; null: of none.
//
// Not in a forked child: there the team's other threads do not exist, and a runtime that waits for
// them waits forever. A child works alone.
void use_team(TeamEntry entry);

// Calls body(part, context) for each part in 0..parts-1 on up to `threads` threads; returns when
// all are done. A part goes to the thread that is free first, so results must not depend on which.
void run_parts(int parts, int threads, void (*body)(int part, void* context), void* context);

// "OpenMP of this process", "none" or "none after a fork": for `xception --version`.
const char* threading_name();

template <typename Body>
void parallel(int parts, int threads, const Body& body) {
  run_parts(
      parts, threads,
      [](int part, void* context) { (*static_cast<const Body*>(context))(part); },
      const_cast<Body*>(&body));
}

}  // namespace xception
