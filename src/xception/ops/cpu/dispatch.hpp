// Which instruction sets were compiled in, which of them this machine has, and which one is used.
#pragma once

#include <string>
#include <vector>

#include "shape.hpp"

namespace xception {

// Compiled in and supported here, the best one last.
std::vector<std::string> usable_instruction_sets();

// The kernels in use: the best at first.
const Kernels& kernels();

// Use those of `name`; false when they are not usable here.
bool use_instruction_set(const std::string& name);

}  // namespace xception
