// What PyTorch asks of a device type besides kernels: allocators, guard, streams, events, generators.
#pragma once

#include <ATen/core/Generator.h>
#include <c10/core/Allocator.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <mutex>

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

// While it lives, kernels that ask for the CPU's default generator draw from the device's. One at a
// time; what another thread draws for the CPU meanwhile comes from the device's generator too.
class DrawFromDevice {
 public:
  explicit DrawFromDevice(int device);
  ~DrawFromDevice();
  DrawFromDevice(const DrawFromDevice&) = delete;

 private:
  void swap();
  std::unique_lock<std::mutex> alone_;
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
// What the layers above have already done does not happen again for the CPU's tensors.
class InsideKernel {
 public:
  InsideKernel();
  ~InsideKernel();
  InsideKernel(const InsideKernel&) = delete;

 private:
  c10::impl::ExcludeDispatchKeyGuard guard_;
};

void install_runtime();

}  // namespace xpu_sim
