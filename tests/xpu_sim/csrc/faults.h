// Which call fails, and how: the rules that are set, and what they do to results.
#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

namespace xpu_sim {

struct OperatorInfo;

// The effects are the few things C++ must know; the many names and messages of Intel's runtime are
// a table in faults.py.
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

// What a rule does to the results of one call: nothing, where there is no rule.
class ResultChange {
 public:
  explicit ResultChange(std::shared_ptr<FaultRule> rule) : rule_(std::move(rule)) {}
  explicit operator bool() const {
    return rule_ != nullptr;
  }
  void apply(const at::Tensor& host);

 private:
  std::shared_ptr<FaultRule> rule_;
  bool fired_ = false;
};

bool matches(const std::string& glob, const OperatorInfo& op);

}  // namespace xpu_sim
