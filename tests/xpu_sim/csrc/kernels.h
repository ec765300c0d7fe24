// Device kernels: each runs the CPU's kernel on the device's memory, which is host memory.
#pragma once

#include <string>
#include <unordered_set>

namespace xpu_sim {

void register_kernels();
void observe_cpu_operators();
// Operators that run a CPU kernel, by full name: what a device may lack.
const std::unordered_set<std::string>& cpu_kernels();
// Operators that are counted and may fail but that no device lacks.
const std::unordered_set<std::string>& written_kernels();

}  // namespace xpu_sim
