// One operator call on a device: its tensors seen as CPU tensors, and the results given back.
#pragma once

#include "state.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

namespace xpu_sim {

// A CPU tensor over the same memory. Storages are shared between the aliases of one call, so that
// views and in-place results can be recognised.
class Aliases {
 public:
  at::Tensor of(const at::Tensor& tensor);
  // The device tensor for what a CPU kernel returned: an argument, a view of one, or new memory.
  at::Tensor to_device(const at::Tensor& result, int device);
  bool has_memory_of(const at::Tensor& result) const;
  // Takes over what the kernel did to the shape or the memory of `tensor` (resize, out=).
  void write_back(const at::Tensor& tensor, const at::Tensor& alias);

 private:
  struct Pair {
    c10::Storage device;
    c10::Storage host;
  };
  std::vector<Pair> storages_;
  std::vector<std::pair<at::Tensor, at::Tensor>> tensors_;  // device, alias
  c10::Storage& host_storage(const c10::Storage& device);
};

class Call {
 public:
  Call(const c10::OperatorHandle& op, OperatorInfo& info, torch::jit::Stack* stack);
  void run();

 private:
  void find_device();
  void replace_arguments();
  at::Tensor argument(const at::Tensor& tensor, bool written);
  void compute();
  void replace_results();
  at::Tensor result(const at::Tensor& tensor);
  bool run_math_attention();

  const c10::OperatorHandle& op_;
  OperatorInfo& info_;
  torch::jit::Stack* stack_;
  int device_ = -1;
  ResultChange change_{nullptr, -1};
  bool falls_back_ = false;
  bool widened_ = false;
  c10::ScalarType narrow_ = c10::kHalf;
  Aliases aliases_;
  struct Written {
    at::Tensor device, alias, computed;  // computed differs from alias when widened to fp32
  };
  std::vector<Written> written_;
};

void run_on_device(const c10::OperatorHandle& op, torch::jit::Stack* stack);
OperatorInfo& info_of(const c10::OperatorHandle& op);
// Raises where the device has no instructions for the dtype.
void require_dtype(int device, c10::ScalarType dtype);

}  // namespace xpu_sim
