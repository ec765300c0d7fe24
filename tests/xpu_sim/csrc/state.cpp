#include "state.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace xpu_sim {

namespace {

constexpr size_t kBlockBytes = 512;  // rounding of the real caching allocator
constexpr size_t kSegmentBytes = 2 << 20;
constexpr size_t kLargeBytes = 1 << 20;  // from here on "large_pool"
constexpr size_t kCopiesKept = 1 << 18;

size_t round_up(size_t bytes, size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

std::string format_size(size_t bytes) {
  std::ostringstream text;
  text.precision(2);
  text << std::fixed;
  if (bytes < 1024) {
    text << bytes << " bytes";
  } else if (bytes < (1 << 20)) {
    text << bytes / 1024.0 << " KiB";
  } else if (bytes < (1 << 30)) {
    text << bytes / 1048576.0 << " MiB";
  } else {
    text << bytes / 1073741824.0 << " GiB";
  }
  return text.str();
}

bool environment_is(const char* name, const char* value) {
  const char* found = std::getenv(name);
  return found && std::string(found) == value;
}

size_t host_available_bytes() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  size_t kib = 0;
  std::string unit;
  while (file >> key >> kib >> unit) {
    if (key == "MemAvailable:") {
      return kib * 1024;
    }
  }
  return SIZE_MAX;
}

using c10::CachingAllocator::StatArray;
using c10::CachingAllocator::StatType;

void for_pools(StatArray& stats, size_t block, bool up, size_t amount) {
  const auto pool = block >= kLargeBytes ? StatType::LARGE_POOL : StatType::SMALL_POOL;
  for (auto type : {StatType::AGGREGATE, pool}) {
    auto& stat = stats[static_cast<size_t>(type)];
    up ? stat.increase(amount) : stat.decrease(amount);
  }
}

int64_t current(const StatArray& stats) {
  return stats[static_cast<size_t>(StatType::AGGREGATE)].current;
}

// The cache is counted in the large pool only: the simulation keeps no separate small segments.
void set_reserved(c10::CachingDeviceAllocator::DeviceStats& memory, int64_t bytes) {
  const int64_t change = bytes - current(memory.reserved_bytes);
  if (change > 0) {
    for_pools(memory.reserved_bytes, kLargeBytes, true, change);
  } else if (change < 0) {
    for_pools(memory.reserved_bytes, kLargeBytes, false, -change);
  }
}

}  // namespace

Machine::Machine() {
  for (const char* name : kRuntimeCalls) {
    auto& info = operators[name] = std::make_shared<OperatorInfo>();
    info->name = name;
    info->base = name;  // a plain "*" in a rule means operators and runtime calls alike
  }
}

Machine& Machine::get() {
  static auto* machine = new Machine();  // outlives every tensor
  return *machine;
}

int Machine::device_count() {
  return static_cast<int>(devices.size());
}

OperatorInfo& Machine::runtime_call(const std::string& name) {
  const std::lock_guard<std::mutex> lock(mutex);
  return *operators.at("runtime::" + name);
}

void Machine::check_alive(int device) {
  auto& state = devices.at(device);
  if (state.hanging) {
    std::unique_lock<std::mutex> lock(mutex);
    goes_on_.wait(lock, [&] { return !state.hanging; });
  }
  if (state.lost) {
    throw std::runtime_error(lost_message);
  }
}

void Machine::hang(int device) {
  devices.at(device).hanging = true;
  check_alive(device);
}

void Machine::let_go_on(int device) {
  const std::lock_guard<std::mutex> lock(mutex);
  devices.at(device).hanging = false;
  goes_on_.notify_all();
}

std::shared_ptr<const DeviceSettings> Machine::settings(int device) {
  const std::lock_guard<std::mutex> lock(mutex);
  return devices.at(device).settings;
}

bool Machine::is_missing(const OperatorInfo& op, int device) {
  const auto chosen = settings(device);
  return std::any_of(
      chosen->missing_operators.begin(), chosen->missing_operators.end(),
      [&](const std::string& glob) { return matches(glob, op); });
}

ResultChange Machine::enter(OperatorInfo& op, int device, int other_device) {
  check_alive(device);
  ++op.executed[device];
  auto rule = rules.match(op, device, other_device);
  if (rule && !rule->changes_result()) {
    const int failing = rule->device < 0 ? device : rule->device;
    if (rule->effect == "hang") {
      hang(failing);
      return {nullptr, device};
    }
    const std::lock_guard<std::mutex> lock(mutex);
    raise(failing, rule->effect, rule->message, 0);
  }
  return {std::move(rule), device};
}

void Machine::raise(int device, const std::string& effect, const std::string& message, size_t bytes) {
  if (effect == "out_of_memory") {
    raise_out_of_memory(device, bytes);
  }
  if (effect == "device_lost") {
    devices.at(device).lost = true;
  }
  throw std::runtime_error(message);
}

// The text of c10/xpu/XPUCachingAllocator.cpp.
void Machine::raise_out_of_memory(int device, size_t bytes) {
  auto& memory = devices.at(device).memory;
  ++memory.num_ooms;
  const size_t allocated = current(memory.allocated_bytes);
  const size_t reserved = current(memory.reserved_bytes);
  TORCH_CHECK_WITH(
      OutOfMemoryError, false, "XPU out of memory. Tried to allocate ", format_size(bytes), ". GPU ", device,
      " has a total capacity of ", format_size(devices.at(device).settings->total_bytes),
      ". Of the allocated memory ", format_size(allocated), " is allocated by PyTorch, and ",
      format_size(reserved - allocated), " is reserved by PyTorch but unallocated.",
      " Please use `empty_cache` to release all unoccupied cached memory.");
}

// Raises unless `bytes` fit; returns the bytes that this process can have of the device's memory.
size_t Machine::require_room(int device, size_t block, size_t bytes) {
  const auto& state = devices.at(device);
  const auto& settings = *state.settings;
  if (settings.max_allocation_bytes && block > settings.max_allocation_bytes &&
      !environment_is("UR_L0_ENABLE_RELAXED_ALLOCATION_LIMITS", "1")) {
    raise_out_of_memory(device, bytes);
  }
  const size_t allocated = current(state.memory.allocated_bytes);
  const size_t wanted = allocated + block;
  if (wanted > static_cast<size_t>(state.memory_fraction * settings.total_bytes)) {
    raise_out_of_memory(device, bytes);
  }
  size_t physical = settings.total_bytes - std::min(settings.total_bytes, settings.other_process_bytes);
  if (settings.integrated) {
    physical = std::min(physical, allocated + host_available_bytes());
  }
  if (wanted > physical) {
    raise(device, settings.when_full, settings.when_full_message, bytes);
  }
  return physical;
}

void Machine::charge(int device, size_t bytes) {
  static auto& call = runtime_call("malloc");
  enter(call, device);
  const size_t block = round_up(bytes, kBlockBytes);
  const std::lock_guard<std::mutex> lock(mutex);
  const size_t physical = require_room(device, block, bytes);
  auto& memory = devices.at(device).memory;
  for (auto* stats : {&memory.allocated_bytes, &memory.active_bytes}) {
    for_pools(*stats, block, true, block);
  }
  for_pools(memory.requested_bytes, block, true, bytes);
  for_pools(memory.allocation, block, true, 1);
  for_pools(memory.active, block, true, 1);
  const size_t wanted = current(memory.allocated_bytes);
  if (wanted > static_cast<size_t>(current(memory.reserved_bytes))) {
    ++memory.num_device_alloc;
    set_reserved(memory, std::max(wanted, std::min(physical, round_up(wanted, kSegmentBytes))));
  } else if (static_cast<size_t>(current(memory.reserved_bytes)) > physical) {
    ++memory.num_alloc_retries;  // another process took memory: the cache is given back
    set_reserved(memory, wanted);
  }
}

void Machine::release(int device, size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex);
  devices.at(device).freed_while_hanging += devices.at(device).hanging ? 1 : 0;
  auto& memory = devices.at(device).memory;
  const size_t block = round_up(bytes, kBlockBytes);
  for (auto* stats : {&memory.allocated_bytes, &memory.active_bytes}) {
    for_pools(*stats, block, false, block);
  }
  for_pools(memory.requested_bytes, block, false, bytes);
  for_pools(memory.allocation, block, false, 1);
  for_pools(memory.active, block, false, 1);
}

void Machine::empty_cache() {
  for (int device = 0; device < device_count(); ++device) {
    enter(runtime_call("empty_cache"), device);
    stale.spoil(device);
    const std::lock_guard<std::mutex> lock(mutex);
    auto& memory = devices[device].memory;
    set_reserved(memory, current(memory.allocated_bytes));
    ++memory.num_device_free;
  }
}

std::pair<size_t, size_t> Machine::memory_info(int device) {
  enter(runtime_call("mem_get_info"), device);
  const std::lock_guard<std::mutex> lock(mutex);
  auto& state = devices.at(device);
  const auto& settings = *state.settings;
  const size_t used = current(state.memory.reserved_bytes) + settings.other_process_bytes;
  size_t free = settings.total_bytes - std::min(settings.total_bytes, used);
  if (settings.integrated) {
    free = std::min(free, host_available_bytes());
  }
  if (settings.memory_info == "raises") {
    TORCH_CHECK(
        false, "The device (", settings.name, ") doesn't support querying the available free memory. ",
        "You can file an issue at https://github.com/pytorch/pytorch/issues ",
        "to help us prioritize its implementation.");
  }
  if (settings.memory_info == "zero") {
    free = 0;
  }
  if (settings.memory_info == "frozen") {
    if (!state.frozen_free_bytes) {
      state.frozen_free_bytes = free;
    }
    free = *state.frozen_free_bytes;
  }
  return {free, settings.total_bytes};
}

void Machine::record_copy(Copy copy) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (copies.size() == kCopiesKept) {
    copies.pop_front();
    ++copies_dropped;
  }
  copies.push_back(std::move(copy));
}

}  // namespace xpu_sim
