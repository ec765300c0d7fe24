// What PyTorch asks of a device type besides kernels: allocators, guard, streams, events, generators.
#pragma once

#include <ATen/core/Generator.h>
#include <c10/core/Allocator.h>
#include <c10/core/Stream.h>

namespace xpu_sim {

int current_device();
int exchange_device(int device);
void check_device(int device);
c10::Stream current_stream(int device);
void synchronize(int device);
// Between two recorded events, by their ids (torch.Event.event_id).
double elapsed_ms(uint64_t start_event, uint64_t end_event);
bool is_pinned(const void* data);

c10::Allocator* device_allocator();
const at::Generator& default_generator(int device);
// The CPU generator behind a device generator: CPU kernels reject one whose device is xpu.
at::Generator host_generator(const at::Generator& generator);

// While it lives, kernels that ask for the CPU's default generator draw from the device's.
class DrawFromDevice {
 public:
  explicit DrawFromDevice(int device);
  ~DrawFromDevice();
  DrawFromDevice(const DrawFromDevice&) = delete;

 private:
  void swap();
  at::Generator device_;
};

// While it lives, memory that CPU kernels allocate on this thread is memory of the device.
class KernelMemory {
 public:
  explicit KernelMemory(int device);
  ~KernelMemory();
  KernelMemory(const KernelMemory&) = delete;

 private:
  int previous_;
};

// True while a device kernel, or a fallback, runs CPU code on this thread.
bool inside_kernel();
class InsideKernel {
 public:
  InsideKernel();
  ~InsideKernel();
  InsideKernel(const InsideKernel&) = delete;
};

void install_runtime();

}  // namespace xpu_sim
