// Which call fails, and how: the rules that are set, and what they do to results.
#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

namespace xpu_sim {

struct OperatorInfo;

// The effects are the few things C++ must know; the many names and messages of Intel's runtime are
// a table in faults.py.
struct FaultRule {
  std::string operator_glob;  // matched against "aten::add.Tensor" and "add"
  std::string effect;  // out_of_memory | runtime_error | device_lost | hang | nan | wrong_result | stale
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

  bool changes_result() const;
  bool is_used_up() const;
};

class Rules {
 public:
  void set(const std::vector<FaultRule>& rules);
  std::vector<FaultRule> snapshot();
  // Counts the call; the first rule that fires on it. One that changes results fires when it does so.
  std::shared_ptr<FaultRule> match(const OperatorInfo& op, int device, int other_device);
  // Whether a rule that changes results may do so, which counts as firing.
  bool fire(FaultRule& rule);

 private:
  std::mutex mutex_;
  std::atomic<bool> any_{false};
  std::vector<std::shared_ptr<FaultRule>> rules_;
};

// Results that the next emptying of the cache turns into NaN, unless they were read to the host before, by the address
// of their memory.
class StaleResults {
 public:
  void add(const at::Tensor& host, int device, std::shared_ptr<FaultRule> rule);
  void forget(const void* memory);
  void spoil(int device);

 private:
  struct Result {
    int device;
    size_t bytes;
    c10::ScalarType dtype;
    std::shared_ptr<FaultRule> rule;
  };
  std::mutex mutex_;
  std::atomic<bool> any_{false};
  std::unordered_map<const void*, Result> results_;
};

// What a rule does to the results of one call: nothing, where there is no rule.
class ResultChange {
 public:
  ResultChange(std::shared_ptr<FaultRule> rule, int device) : rule_(std::move(rule)), device_(device) {}
  explicit operator bool() const {
    return rule_ != nullptr;
  }
  // `on_device`: whether that memory is the device's; what was read to the host stays as it is.
  void apply(const at::Tensor& host, bool on_device = true);

 private:
  std::shared_ptr<FaultRule> rule_;
  int device_ = -1;
  bool fired_ = false;
};

bool matches(const std::string& glob, const OperatorInfo& op);

}  // namespace xpu_sim
