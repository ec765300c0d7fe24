// The simulated machine: devices with limited memory, faults to inject, and what was counted.
#pragma once

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Device.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

namespace xpu_sim {

constexpr int kMaxDevices = 8;

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

// "Which call fails, and how". The effects are the few things C++ must know; the many names and
// messages of Intel's runtime are a table in faults.py.
struct FaultRule {
  std::string operator_glob;  // matched against "aten::add.Tensor" and "add"
  std::string effect;  // out_of_memory | runtime_error | device_lost | nan | wrong_result
  std::string message;
  int device = -1;  // -1: any
  int64_t nth = 1;  // the first matching call that may fire, counted from 1
  int64_t times = 1;  // how often it may fire; -1: without end
  double probability = 1.0;
  uint64_t seed = 0;
  size_t above_bytes = 0;  // only results larger than this (wrong_result, nan)
  int64_t calls = 0;
  int64_t fired = 0;
  std::mt19937_64 random;
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
  DeviceSettings settings;
  c10::CachingDeviceAllocator::DeviceStats memory;
  double memory_fraction = 1.0;
  bool lost = false;
  std::optional<size_t> frozen_free_bytes;
};

class Machine {
 public:
  static Machine& get();

  std::mutex mutex;
  std::vector<DeviceState> devices;
  std::vector<FaultRule> rules;
  std::atomic<bool> has_rules{false};
  std::deque<Copy> copies;
  uint64_t copies_dropped = 0;
  uint64_t recorded_streams = 0;
  std::map<std::string, CpuCount> on_cpu;
  bool bf16_in_fp32 = false;

  OperatorInfo& runtime_call(const std::string& name);
  int device_count();
  std::string lost_message;

  // Counts the call, then raises what a rule or a lost device demands. Returns the rule's effect
  // when it is one that changes the result instead of raising.
  std::optional<FaultRule> enter(OperatorInfo& op, int device);
  bool is_missing(const OperatorInfo& op, int device);
  bool uses_math_attention(int device);
  void check_alive(int device);

  // Accounts an allocation or raises; `release` is its counterpart.
  size_t charge(int device, size_t bytes);
  void release(int device, size_t charged_bytes);
  void empty_cache();
  std::pair<size_t, size_t> memory_info(int device);
  void record_copy(Copy copy);
  std::map<std::string, std::shared_ptr<OperatorInfo>> operators;

 private:
  [[noreturn]] void raise(int device, const std::string& effect, const std::string& message, size_t bytes);
  [[noreturn]] void raise_out_of_memory(int device, size_t bytes);
  size_t require_room(int device, size_t block, size_t bytes);
  std::optional<FaultRule> match(const OperatorInfo& op, int device);
};

bool matches(const std::string& glob, const OperatorInfo& op);

}  // namespace xpu_sim
