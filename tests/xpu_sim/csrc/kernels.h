// Device kernels: each runs the CPU's kernel on the device's memory, which is host memory.
#pragma once

namespace xpu_sim {

void register_kernels();
void observe_cpu_operators();

}  // namespace xpu_sim
