// Threads: those of the OpenMP runtime that torch has already started, asked for by name.
//
// A second pool beside torch's would fight with it for the cores, since a waiting OpenMP thread
// spins. So nothing is linked: the runtime that the process already holds is looked up, and where
// there is none the parts run one after the other.
#pragma once

namespace xception {

// Calls body(part, context) for each part in 0..parts-1 on up to `threads` threads; returns when all
// are done. A part goes to the thread that is free first, so results must not depend on which.
void run_parts(int parts, int threads, void (*body)(int part, void* context), void* context);

// "OpenMP of this process" or "none": for `xception --version`.
const char* threading_name();

template <typename Body>
void parallel(int parts, int threads, const Body& body) {
  run_parts(
      parts, threads,
      [](int part, void* context) { (*static_cast<const Body*>(context))(part); },
      const_cast<Body*>(&body));
}

}  // namespace xception
