// The simulated machine: devices with limited memory, and what was counted.
#pragma once

#include "faults.h"

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Device.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace xpu_sim {

constexpr int kMaxDevices = 8;

// The calls of the runtime that are counted and that a rule may name.
constexpr const char* kRuntimeCalls[] = {
    "runtime::malloc", "runtime::synchronize", "runtime::empty_cache", "runtime::mem_get_info",
    "runtime::pin_memory"};

// What the tests choose for one device; Python fills it in (config.py documents every field).
struct DeviceSettings {
  std::string name;
  size_t total_bytes = 0;
  size_t max_allocation_bytes = 0;  // 0: no limit
  size_t other_process_bytes = 0;
  std::string memory_info = "works";  // works | raises | zero | frozen
  std::string when_full = "out_of_memory";  // an effect (see FaultRule) for physically full memory
  std::string when_full_message;
  std::string sdpa = "flash";  // flash | math
  bool has_fp16 = true;
  bool has_bf16 = true;
  bool has_fp64 = true;
  bool integrated = false;
  std::vector<std::string> missing_operators;  // globs
};

struct Copy {
  std::string direction;  // host_to_device | device_to_host | device_to_device
  int device;
  size_t bytes;
  bool pinned;
  bool non_blocking;
  int64_t stream;
  uint64_t host_address;  // 0 for device_to_device
};

struct CpuCount {
  uint64_t count = 0;
  uint64_t largest_bytes = 0;
};

// Everything known about one dispatcher operator, made at its first call and kept.
struct OperatorInfo {
  std::string name;  // "aten::add.Tensor"
  std::string base;  // "add"
  bool computes_in_fp32 = false;
  int generator_argument = -1;
  bool draws_unseen = false;  // random numbers without a generator argument
  std::array<std::atomic<uint64_t>, kMaxDevices> executed{};
  std::array<std::atomic<uint64_t>, kMaxDevices> fell_back{};
};

struct DeviceState {
  std::shared_ptr<const DeviceSettings> settings;  // replaced as a whole
  c10::CachingDeviceAllocator::DeviceStats memory;
  double memory_fraction = 1.0;
  std::atomic<bool> lost{false};
  std::atomic<bool> hanging{false};  // nothing that is asked of it comes back
  uint64_t freed_while_hanging = 0;  // a real allocator may wait for the driver in that
  std::optional<size_t> frozen_free_bytes;
};

class Machine {
 public:
  static Machine& get();

  // Guards the fields of a device, the copies, the operators and the CPU's counts.
  std::mutex mutex;
  std::deque<DeviceState> devices;
  Rules rules;
  StaleResults stale;
  std::deque<Copy> copies;
  uint64_t copies_dropped = 0;
  std::atomic<uint64_t> recorded_streams{0};
  std::map<std::string, CpuCount> on_cpu;
  std::map<std::string, std::shared_ptr<OperatorInfo>> operators;
  bool bf16_in_fp32 = false;

  OperatorInfo& runtime_call(const std::string& name);
  int device_count();
  std::string lost_message;

  // Counts the call, then raises what a rule or a lost device demands. The answer is for the results.
  // A copy between devices concerns another one too.
  ResultChange enter(OperatorInfo& op, int device, int other_device = -1);
  std::shared_ptr<const DeviceSettings> settings(int device);
  bool is_missing(const OperatorInfo& op, int device);
  // Raises on a lost device, and does not come back from a hanging one until it is let go on.
  void check_alive(int device);
  void let_go_on(int device);

  // Accounts an allocation or raises; `release` is its counterpart.
  void charge(int device, size_t bytes);
  void release(int device, size_t bytes);
  void empty_cache();
  std::pair<size_t, size_t> memory_info(int device);
  void record_copy(Copy copy);

 private:
  Machine();
  std::condition_variable goes_on_;
  void hang(int device);
  // All with the mutex held.
  [[noreturn]] void raise(int device, const std::string& effect, const std::string& message, size_t bytes);
  [[noreturn]] void raise_out_of_memory(int device, size_t bytes);
  size_t require_room(int device, size_t block, size_t bytes);
};

}  // namespace xpu_sim
