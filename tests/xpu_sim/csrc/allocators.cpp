#include "runtime.h"
#include "state.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <map>
#include <unordered_map>

namespace xpu_sim {

namespace {

thread_local int kernel_device = -1;
thread_local int kernel_depth = 0;

// The CPU's own allocator, from before ours took its place.
c10::Allocator*& host_allocator() {
  static c10::Allocator* allocator = nullptr;
  return allocator;
}

// What of `allocate` is charged to the device, unless the host has no memory for it.
template <typename Allocate>
auto charged(int device, size_t bytes, Allocate allocate) {
  Machine::get().charge(device, bytes);
  try {
    return allocate();
  } catch (...) {
    Machine::get().release(device, bytes);
    throw;
  }
}

struct Block {
  c10::DataPtr host;
  int device;
  size_t bytes;
};

void free_block(void* context) {
  auto* block = static_cast<Block*>(context);
  Machine::get().stale.forget(block->host.get());
  Machine::get().release(block->device, block->bytes);
  delete block;
}

// Device memory under a CPU label, by address: CPU code frees memory by its address alone.
struct Charge {
  int device;
  size_t bytes;
};
std::mutex charged_mutex;
std::unordered_map<void*, Charge>& charged_addresses() {
  static auto* addresses = new std::unordered_map<void*, Charge>();
  return *addresses;
}

void free_by_address(void* data) {
  std::optional<Charge> charge;
  {
    const std::lock_guard<std::mutex> lock(charged_mutex);
    const auto found = charged_addresses().find(data);
    if (found != charged_addresses().end()) {
      charge = found->second;
      charged_addresses().erase(found);
    }
  }
  if (charge) {
    Machine::get().stale.forget(data);
    Machine::get().release(charge->device, charge->bytes);
  }
  host_allocator()->raw_deallocate(data);
}

struct DeviceMemory final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t bytes) override {
    const int device = current_device();
    const c10::Device label(c10::kXPU, static_cast<c10::DeviceIndex>(device));
    if (bytes == 0) {
      return {nullptr, label};
    }
    auto* block = charged(
        device, bytes, [&] { return new Block{host_allocator()->allocate(bytes), device, bytes}; });
    return {block->host.get(), block, &free_block, label};
  }
  void copy_data(void* target, const void* source, size_t bytes) const override {
    default_copy_data(target, source, bytes);
  }
  bool initialized() override {
    return true;
  }
  void emptyCache(c10::MempoolId_t) override {
    Machine::get().empty_cache();
  }
  void recordStream(const c10::DataPtr&, c10::Stream) override {
    ++Machine::get().recorded_streams;
  }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex device) override {
    const std::lock_guard<std::mutex> lock(Machine::get().mutex);
    return Machine::get().devices.at(device).memory;
  }
  void resetAccumulatedStats(c10::DeviceIndex device) override {
    each_stat(device, [](auto& stat) { stat.reset_accumulated(); });
  }
  void resetPeakStats(c10::DeviceIndex device) override {
    each_stat(device, [](auto& stat) { stat.reset_peak(); });
  }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex device) override {
    return Machine::get().memory_info(device);
  }

 private:
  template <typename Function>
  void each_stat(c10::DeviceIndex device, Function function) {
    const std::lock_guard<std::mutex> lock(Machine::get().mutex);
    auto& memory = Machine::get().devices.at(device).memory;
    for (auto* stats : {&memory.allocation, &memory.active, &memory.allocated_bytes, &memory.reserved_bytes,
                        &memory.active_bytes, &memory.requested_bytes}) {
      for (auto& stat : *stats) {
        function(stat);
      }
    }
  }
};

// Host memory, except inside a device kernel: there, what the CPU code allocates is the device's.
struct HostMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (kernel_device < 0 || bytes == 0) {
      return host_allocator()->allocate(bytes);
    }
    void* data = charged(kernel_device, bytes, [&] { return host_allocator()->raw_allocate(bytes); });
    const std::lock_guard<std::mutex> lock(charged_mutex);
    charged_addresses()[data] = {kernel_device, bytes};
    return {data, data, &free_by_address, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return &free_by_address;
  }
  void copy_data(void* target, const void* source, size_t bytes) const override {
    default_copy_data(target, source, bytes);
  }
};

std::mutex pinned_mutex;
std::map<uintptr_t, size_t>& pinned_ranges() {
  static auto* ranges = new std::map<uintptr_t, size_t>();
  return *ranges;
}

void free_pinned(void* context) {
  auto* host = static_cast<c10::DataPtr*>(context);
  {
    const std::lock_guard<std::mutex> lock(pinned_mutex);
    pinned_ranges().erase(reinterpret_cast<uintptr_t>(host->get()));
  }
  delete host;
}

struct PinnedMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    auto& machine = Machine::get();
    check_device(current_device());
    machine.enter(machine.runtime_call("pin_memory"), current_device());
    auto* host = new c10::DataPtr(host_allocator()->allocate(std::max<size_t>(bytes, 1)));
    const std::lock_guard<std::mutex> lock(pinned_mutex);
    pinned_ranges()[reinterpret_cast<uintptr_t>(host->get())] = std::max<size_t>(bytes, 1);
    return {host->get(), host, &free_pinned, c10::Device(c10::kCPU)};
  }
  void copy_data(void* target, const void* source, size_t bytes) const override {
    default_copy_data(target, source, bytes);
  }
};

}  // namespace

bool is_pinned(const void* data) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  const std::lock_guard<std::mutex> lock(pinned_mutex);
  auto next = pinned_ranges().upper_bound(address);
  if (next == pinned_ranges().begin()) {
    return false;
  }
  --next;
  return address < next->first + next->second;
}

c10::Allocator* device_allocator() {
  static auto* allocator = new DeviceMemory();
  return allocator;
}

c10::Allocator* pinned_allocator() {
  static auto* allocator = new PinnedMemory();
  return allocator;
}

void install_allocators() {
  host_allocator() = c10::GetCPUAllocator();
  c10::SetAllocator(c10::kXPU, device_allocator());
  c10::SetCPUAllocator(new HostMemory(), /*priority=*/100);
}

KernelMemory::KernelMemory(int device) : previous_(kernel_device) {
  kernel_device = device;
}
KernelMemory::~KernelMemory() {
  kernel_device = previous_;
}

bool inside_kernel() {
  return kernel_depth > 0;
}
InsideKernel::InsideKernel()
    : guard_(c10::autograd_dispatch_keyset_with_ADInplaceOrView | c10::autocast_dispatch_keyset |
             c10::DispatchKeySet(c10::DispatchKey::Functionalize)) {
  ++kernel_depth;
}
InsideKernel::~InsideKernel() {
  --kernel_depth;
}

}  // namespace xpu_sim
