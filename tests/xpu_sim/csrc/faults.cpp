#include "faults.h"
#include "runtime.h"
#include "state.h"

#include <ATen/ops/from_blob.h>

#include <fnmatch.h>

#include <limits>

namespace xpu_sim {

bool matches(const std::string& glob, const OperatorInfo& op) {
  return fnmatch(glob.c_str(), op.name.c_str(), 0) == 0 || fnmatch(glob.c_str(), op.base.c_str(), 0) == 0;
}

bool FaultRule::changes_result() const {
  return effect == "nan" || effect == "wrong_result" || effect == "stale";
}

bool FaultRule::is_used_up() const {
  return times >= 0 && fired >= times;
}

void Rules::set(const std::vector<FaultRule>& rules) {
  const std::lock_guard<std::mutex> lock(mutex_);
  rules_.clear();
  for (const auto& rule : rules) {
    rules_.push_back(std::make_shared<FaultRule>(rule));
    rules_.back()->random.seed(rule.seed);
  }
  any_ = !rules_.empty();
}

std::vector<FaultRule> Rules::snapshot() {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<FaultRule> rules;
  for (const auto& rule : rules_) {
    rules.push_back(*rule);
  }
  return rules;
}

std::shared_ptr<FaultRule> Rules::match(const OperatorInfo& op, int device, int other_device) {
  if (!any_) {
    return nullptr;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& rule : rules_) {
    const bool here = rule->device < 0 || rule->device == device || rule->device == other_device;
    if (!here || !matches(rule->operator_glob, op)) {
      continue;
    }
    ++rule->calls;
    if (rule->calls < rule->nth || rule->is_used_up()) {
      continue;
    }
    if (rule->probability < 1.0 &&
        std::uniform_real_distribution<double>(0.0, 1.0)(rule->random) >= rule->probability) {
      continue;
    }
    rule->fired += rule->changes_result() ? 0 : 1;
    return rule;
  }
  return nullptr;
}

bool Rules::fire(FaultRule& rule) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (rule.is_used_up()) {
    return false;
  }
  ++rule.fired;
  return true;
}

void StaleResults::add(const at::Tensor& host, int device, std::shared_ptr<FaultRule> rule) {
  const std::lock_guard<std::mutex> lock(mutex_);
  results_[host.storage().data()] = {device, host.storage().nbytes(), host.scalar_type(), std::move(rule)};
  any_ = true;
}

void StaleResults::forget(const void* memory) {
  if (any_) {
    const std::lock_guard<std::mutex> lock(mutex_);
    results_.erase(memory);
  }
}

void StaleResults::spoil(int device) {
  if (!any_) {
    return;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  const InsideKernel inside;
  for (auto next = results_.begin(); next != results_.end();) {
    const auto& [memory, result] = *next;
    if (result.device != device) {
      ++next;
      continue;
    }
    if (Machine::get().rules.fire(*result.rule)) {
      const auto size = static_cast<int64_t>(result.bytes / c10::elementSize(result.dtype));
      at::from_blob(const_cast<void*>(memory), {size}, at::TensorOptions(result.dtype))
          .fill_(std::numeric_limits<double>::quiet_NaN());
    }
    next = results_.erase(next);
  }
  any_ = !results_.empty();
}

// A kernel with too small an index type stops in the middle: the rest of the result is not written.
void ResultChange::apply(const at::Tensor& host, bool on_device) {
  if (!rule_ || !host.defined() || !host.is_floating_point() || host.nbytes() <= rule_->above_bytes) {
    return;
  }
  if (rule_->effect == "stale") {
    if (on_device) {
      Machine::get().stale.add(host, device_, rule_);
    }
    return;
  }
  fired_ = fired_ || Machine::get().rules.fire(*rule_);
  if (!fired_) {
    return;
  }
  const InsideKernel inside;
  if (rule_->effect == "nan") {
    host.fill_(std::numeric_limits<double>::quiet_NaN());
    return;
  }
  const auto flat = host.flatten();
  const int64_t first = static_cast<int64_t>(rule_->above_bytes) / host.element_size();
  flat.slice(0, first).mul_(-1).add_(1);
  host.copy_(flat.view(host.sizes()));
}

}  // namespace xpu_sim
