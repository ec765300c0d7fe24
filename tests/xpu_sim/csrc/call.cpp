#include "call.h"
#include "runtime.h"

#include <ATen/core/enum_tag.h>
#include <ATen/ops/_scaled_dot_product_attention_math.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/util/env.h>

#include <algorithm>
#include <unordered_set>

namespace xpu_sim {

namespace {

// Where CPUs without fp16 instructions are slow beyond use.
const std::unordered_set<std::string> kComputedInFp32 = {
    "mm",   "addmm",       "bmm",         "baddbmm",      "addbmm",
    "mv",   "addmv",       "dot",         "vdot",         "addr",
    "convolution", "convolution_overrideable", "convolution_backward", "scaled_dot_product_attention",
};

bool is_fp64(c10::ScalarType dtype) {
  return dtype == c10::kDouble || dtype == c10::kComplexDouble;
}

void free_storage(void* context) {
  delete static_cast<c10::Storage*>(context);
}

// The memory of a CPU storage, kept alive by it, under the device's name.
c10::DataPtr device_pointer(const c10::Storage& host, int device) {
  return {host.mutable_data(), new c10::Storage(host), &free_storage,
          c10::Device(c10::kXPU, static_cast<c10::DeviceIndex>(device))};
}

at::Tensor make_tensor(const c10::Storage& storage, c10::DispatchKey key, const at::Tensor& like) {
  const auto bits = like.key_set() &
      c10::DispatchKeySet({c10::DispatchKey::Conjugate, c10::DispatchKey::Negative});
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(storage), c10::DispatchKeySet(key) | bits, like.dtype());
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  if (like.unsafeGetTensorImpl()->is_wrapped_number()) {
    impl->set_wrapped_number(true);
  }
  return tensor;
}

}  // namespace

void require_dtype(int device, c10::ScalarType dtype) {
  const auto settings = Machine::get().settings(device);
  if (is_fp64(dtype) && !settings->has_fp64) {
    throw std::runtime_error("Required aspect fp64 is not supported on the device");
  }
  if (dtype == c10::kHalf && !settings->has_fp16) {
    throw std::runtime_error("Required aspect fp16 is not supported on the device");
  }
}

OperatorInfo& info_of(const c10::OperatorHandle& op) {
  static std::mutex mutex;
  static auto* known = new std::unordered_map<const void*, std::shared_ptr<OperatorInfo>>();
  const std::lock_guard<std::mutex> lock(mutex);
  auto& info = (*known)[&op.schema()];
  if (info) {
    return *info;
  }
  info = std::make_shared<OperatorInfo>();
  info->name = c10::toString(op.operator_name());
  info->base = op.schema().name().substr(op.schema().name().find("::") + 2);
  info->computes_in_fp32 = kComputedInFp32.count(info->base) > 0;
  const auto& arguments = op.schema().arguments();
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i].type()->str().find("Generator") != std::string::npos) {
      info->generator_argument = static_cast<int>(i);
    }
    info->computes_in_fp32 = info->computes_in_fp32 && arguments[i].name() != "out_dtype";
  }
  info->draws_unseen = info->generator_argument < 0 && op.hasTag(at::Tag::nondeterministic_seeded);
  auto& machine = Machine::get();
  const std::lock_guard<std::mutex> machine_lock(machine.mutex);
  machine.operators[info->name] = info;
  return *info;
}

c10::Storage& Aliases::host_storage(const c10::Storage& device) {
  for (auto& pair : storages_) {
    if (pair.device.unsafeGetStorageImpl() == device.unsafeGetStorageImpl()) {
      return pair.host;
    }
  }
  c10::Storage host(
      c10::Storage::use_byte_size_t(), device.nbytes(),
      c10::DataPtr(device.mutable_data(), c10::Device(c10::kCPU)), c10::GetCPUAllocator(), /*resizable=*/true);
  storages_.push_back({device, host});
  return storages_.back().host;
}

at::Tensor Aliases::of(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_xpu()) {
    return tensor;
  }
  auto alias = make_tensor(host_storage(tensor.storage()), c10::DispatchKey::CPU, tensor);
  tensors_.emplace_back(tensor, alias);
  return alias;
}

bool Aliases::has_memory_of(const at::Tensor& result) const {
  return std::any_of(storages_.begin(), storages_.end(), [&](const Pair& pair) {
    return pair.host.unsafeGetStorageImpl() == result.storage().unsafeGetStorageImpl();
  });
}

at::Tensor Aliases::to_device(const at::Tensor& result, int device) {
  if (!result.defined() || !result.is_cpu()) {
    return result;
  }
  for (const auto& [tensor, alias] : tensors_) {
    if (alias.is_same(result)) {
      return tensor;
    }
  }
  for (const auto& pair : storages_) {
    if (pair.host.unsafeGetStorageImpl() == result.storage().unsafeGetStorageImpl()) {
      return make_tensor(pair.device, c10::DispatchKey::XPU, result);
    }
  }
  const auto& host = result.storage();
  c10::Storage storage(
      c10::Storage::use_byte_size_t(), host.nbytes(), device_pointer(host, device), device_allocator(),
      /*resizable=*/true);
  storages_.push_back({storage, host});
  return make_tensor(storage, c10::DispatchKey::XPU, result);
}

void Aliases::write_back(const at::Tensor& tensor, const at::Tensor& alias) {
  auto* target = tensor.storage().unsafeGetStorageImpl();
  const auto& host = alias.storage();
  if (host.data() != target->data() || host.nbytes() != target->nbytes()) {
    target->set_data_ptr_noswap(device_pointer(host, tensor.get_device()));
    target->set_nbytes(host.nbytes());
  }
  if (alias.sizes() != tensor.sizes() || alias.strides() != tensor.strides()) {
    tensor.unsafeGetTensorImpl()->set_sizes_and_strides(
        alias.sizes(), alias.strides(), alias.storage_offset());
  }
}

Call::Call(const c10::OperatorHandle& op, OperatorInfo& info, torch::jit::Stack* stack)
    : op_(op), info_(info), stack_(stack) {}

// The device of the call; tensors elsewhere are an error, as they are for real kernels. Allowed are
// zero-dimensional CPU tensors, and CPU indices (optional tensor lists).
void Call::find_device() {
  std::optional<c10::Device> found;
  const auto visit = [&](const at::Tensor& tensor, bool may_be_cpu) {
    if (!tensor.defined() || (tensor.is_cpu() && (may_be_cpu || tensor.dim() == 0))) {
      return;
    }
    TORCH_CHECK(
        !found || *found == tensor.device(),
        "Expected all tensors to be on the same device, but found at least two devices, ",
        found.value_or(tensor.device()), " and ", tensor.device(), "!");
    found = tensor.device();
  };
  for (const auto& value : torch::jit::last(*stack_, op_.schema().arguments().size())) {
    if (value.isTensor()) {
      visit(value.toTensor(), false);
    } else if (value.isTensorList()) {
      for (const at::Tensor& tensor : value.toTensorVector()) {
        visit(tensor, false);
      }
    } else if (value.isOptionalTensorList()) {
      for (const auto& tensor : value.toOptionalTensorVector()) {
        visit(tensor.value_or(at::Tensor()), true);
      }
    } else if (value.isDevice() && value.toDevice().is_xpu() && !found) {
      const auto device = value.toDevice();
      found = device.has_index()
          ? device
          : c10::Device(c10::kXPU, static_cast<c10::DeviceIndex>(current_device()));
    }
  }
  TORCH_CHECK(
      !found || found->is_xpu() || info_.generator_argument < 0, "Expected a '", found->type(),
      "' device type for generator but found 'xpu'");
  device_ = found && found->is_xpu() ? found->index() : current_device();
}

at::Tensor Call::argument(const at::Tensor& tensor, bool written) {
  auto alias = aliases_.of(tensor);
  if (!alias.defined() || alias.is_same(tensor)) {
    return alias;
  }
  require_dtype(device_, alias.scalar_type());
  if (falls_back_) {
    Machine::get().record_copy({"device_to_host", device_, alias.nbytes(), false, false, 0, 0});
  }
  auto computed = alias;
  const auto dtype = alias.scalar_type();
  if (info_.computes_in_fp32 && dtype == c10::kBFloat16 && !falls_back_ &&
      !Machine::get().settings(device_)->has_bf16) {
    // What Xe-LP answers to bf16 matrix work, which needs XMX.
    throw std::runtime_error("level_zero backend failed with error: 45 (UR_RESULT_ERROR_INVALID_ARGUMENT)");
  }
  if (info_.computes_in_fp32 && (dtype == c10::kHalf || (dtype == c10::kBFloat16 && Machine::get().bf16_in_fp32))) {
    widened_ = true;
    narrow_ = dtype;
    computed = alias.to(c10::kFloat);
  }
  if (written) {
    written_.push_back({tensor, alias, computed});
  }
  return computed;
}

void Call::replace_arguments() {
  const auto& schema = op_.schema().arguments();
  const size_t begin = stack_->size() - schema.size();
  for (size_t i = 0; i < schema.size(); ++i) {
    auto& value = (*stack_)[begin + i];
    const auto* alias_info = schema[i].alias_info();
    const bool written = alias_info && alias_info->isWrite();
    if (static_cast<int>(i) == info_.generator_argument) {
      value = host_generator(value.isNone() ? default_generator(device_) : value.toGenerator());
    } else if (value.isTensor()) {
      value = argument(value.toTensor(), written);
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) {
        list.push_back(argument(tensor, written));
      }
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const auto& tensor : value.toOptionalTensorVector()) {
        list.push_back(tensor ? std::optional<at::Tensor>(argument(*tensor, false)) : std::nullopt);
      }
      value = list;
    } else if (value.isDevice()) {
      value = c10::Device(c10::kCPU);
    }
  }
}

void Call::compute() {
  std::optional<DrawFromDevice> draw;
  if (info_.draws_unseen) {
    draw.emplace(device_);
  }
  const auto run = [&] { op_.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack_); };
  if (falls_back_ || widened_) {
    run();
  } else {
    const KernelMemory memory(device_);
    run();
  }
}

at::Tensor Call::result(const at::Tensor& tensor) {
  if (!tensor.defined()) {
    return tensor;
  }
  require_dtype(device_, tensor.scalar_type());
  for (const auto& written : written_) {
    if (written.computed.is_same(tensor)) {
      change_.apply(written.alias);
      return written.device;
    }
  }
  auto host = tensor;
  const KernelMemory memory(device_);
  if (widened_ && host.scalar_type() == c10::kFloat) {
    host = host.to(narrow_);
  } else if (falls_back_) {
    host = host.clone();
  }
  if (falls_back_) {
    Machine::get().record_copy({"host_to_device", device_, host.nbytes(), false, false, 0, 0});
  }
  if (!aliases_.has_memory_of(host)) {  // a view computes nothing that could be wrong
    change_.apply(host);
  }
  return aliases_.to_device(host, device_);
}

void Call::replace_results() {
  for (const auto& written : written_) {
    if (!written.computed.is_same(written.alias)) {
      const KernelMemory memory(device_);
      if (written.alias.sizes() != written.computed.sizes()) {
        written.alias.resize_(written.computed.sizes());
      }
      written.alias.copy_(written.computed);
    }
    aliases_.write_back(written.device, written.alias);
    if (falls_back_) {
      Machine::get().record_copy({"host_to_device", device_, written.alias.nbytes(), false, false, 0, 0});
    }
  }
  const size_t begin = stack_->size() - op_.schema().returns().size();
  for (size_t i = begin; i < stack_->size(); ++i) {
    auto& value = (*stack_)[i];
    if (value.isTensor()) {
      value = result(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) {
        list.push_back(result(tensor));
      }
      value = list;
    }
  }
}

// Unfused attention: the scores are device tensors like any other, with their memory.
bool Call::run_math_attention() {
  if (info_.base != "scaled_dot_product_attention" || falls_back_ ||
      Machine::get().settings(device_)->sdpa != "math") {
    return false;
  }
  const auto arguments = torch::jit::pop(*stack_, 8);
  auto output = std::get<0>(at::_scaled_dot_product_attention_math(
      arguments[0].toTensor(), arguments[1].toTensor(), arguments[2].toTensor(),
      arguments[3].toOptional<at::Tensor>(), arguments[4].toDouble(), arguments[5].toBool(), std::nullopt,
      arguments[6].toOptional<double>(), arguments[7].toBool()));
  change_.apply(aliases_.of(output));
  torch::jit::push(*stack_, std::move(output));
  return true;
}

void Call::run() {
  find_device();
  auto& machine = Machine::get();
  change_ = machine.enter(info_, device_);
  if (machine.is_missing(info_, device_)) {
    TORCH_CHECK_NOT_IMPLEMENTED(
        c10::utils::check_env("PYTORCH_ENABLE_XPU_FALLBACK") == true, "The operator '", info_.name,
        "' is not currently implemented for the XPU device. Please open a feature on "
        "https://github.com/intel/torch-xpu-ops/issues. You can set the environment variable "
        "`PYTORCH_ENABLE_XPU_FALLBACK=1` to use the CPU implementation as a fallback for XPU unimplemented "
        "operators. WARNING: this will bring unexpected performance compared with running natively on XPU.");
    falls_back_ = true;
    --info_.executed[device_];
    ++info_.fell_back[device_];
    if (c10::utils::check_env("PYTORCH_DEBUG_XPU_FALLBACK") == true) {
      TORCH_WARN("Aten Op fallback from XPU to CPU happens. The Op name is ", info_.name);
    }
  }
  if (run_math_attention()) {
    return;
  }
  const InsideKernel inside;
  replace_arguments();
  compute();
  replace_results();
}

void run_on_device(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  Call(op, info_of(op), stack).run();
}

}  // namespace xpu_sim
