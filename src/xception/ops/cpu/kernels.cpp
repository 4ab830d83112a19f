// Compiled once per instruction set, with XCEPTION_ISA naming the namespace.
#include "backward.hpp"
#include "forward.hpp"
#include "merge.hpp"

#define XCEPTION_TEXT_OF(name) #name
#define XCEPTION_TEXT(name) XCEPTION_TEXT_OF(name)

namespace XCEPTION_ISA {
extern const xception::Kernels kernels;
const xception::Kernels kernels{XCEPTION_TEXT(XCEPTION_ISA), forward, backward, merge,
                                merge_backward};
}  // namespace XCEPTION_ISA
