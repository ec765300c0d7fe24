#include "kernels.h"
#include "call.h"
#include "runtime.h"

#include <ATen/EmptyTensor.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_local_scalar_dense.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/view_native.h>
#include <ATen/record_function.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <unordered_set>

namespace xpu_sim {

namespace {

const auto kXpuKeys = c10::DispatchKeySet(c10::DispatchKey::XPU);

OperatorInfo& named(const char* name, const char* overload = "") {
  return info_of(c10::Dispatcher::singleton().findSchemaOrThrow(name, overload));
}

c10::Device with_index(std::optional<c10::Device> device) {
  return device && device->has_index()
      ? *device
      : c10::Device(c10::kXPU, static_cast<c10::DeviceIndex>(current_device()));
}

// New memory on the device that a call asks for.
template <typename Make>
at::Tensor make_tensor(OperatorInfo& info, std::optional<c10::Device> wanted, c10::ScalarType dtype,
                       std::optional<bool> pinned, Make make) {
  TORCH_CHECK(!pinned.value_or(false), "Only dense CPU tensors can be pinned");
  const auto device = with_index(wanted);
  check_device(device.index());
  auto change = Machine::get().enter(info, device.index());
  require_dtype(device.index(), dtype);
  const c10::DeviceGuard guard(device);
  const at::Tensor tensor = make();
  if (change) {
    change.apply(Aliases().of(tensor));
  }
  return tensor;
}

at::Tensor empty(at::IntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
                 std::optional<c10::Device> wanted, std::optional<bool> pinned,
                 std::optional<c10::MemoryFormat> format) {
  static auto& info = named("aten::empty", "memory_format");
  const auto type = c10::dtype_or_default(dtype);
  return make_tensor(info, wanted, type, pinned, [&] {
    return at::detail::empty_generic(size, device_allocator(), kXpuKeys, type, format);
  });
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<c10::ScalarType> dtype,
                         std::optional<c10::Layout>, std::optional<c10::Device> wanted,
                         std::optional<bool> pinned) {
  static auto& info = named("aten::empty_strided");
  const auto type = c10::dtype_or_default(dtype);
  return make_tensor(info, wanted, type, pinned, [&] {
    return at::detail::empty_strided_generic(size, stride, device_allocator(), kXpuKeys, type);
  });
}

void record_copy(const at::Tensor& target, const at::Tensor& source, bool non_blocking) {
  if (target.device() == source.device() || target.numel() == 0) {
    return;
  }
  const bool to_device = target.is_xpu();
  const int device = to_device ? target.get_device() : source.get_device();
  const auto stream = current_stream(device).id();
  if (to_device && source.is_xpu()) {
    Machine::get().record_copy({"device_to_device", device, source.nbytes(), false, non_blocking, stream, 0});
    return;
  }
  const auto* address = to_device ? source.const_data_ptr() : target.const_data_ptr();
  Machine::get().record_copy({to_device ? "host_to_device" : "device_to_host", device, source.nbytes(),
                              is_pinned(address), non_blocking, stream, reinterpret_cast<uint64_t>(address)});
}

at::Tensor& copy(at::Tensor& self, const at::Tensor& source, bool non_blocking) {
  static auto& info = named("aten::copy_");
  for (const at::Tensor* tensor : {&source, static_cast<const at::Tensor*>(&self)}) {
    if (tensor->is_xpu()) {
      Machine::get().check_alive(tensor->get_device());
      require_dtype(tensor->get_device(), tensor->scalar_type());
    }
  }
  const bool between = self.is_xpu() && source.is_xpu();
  auto change = Machine::get().enter(
      info, self.is_xpu() ? self.get_device() : source.get_device(), between ? source.get_device() : -1);
  record_copy(self, source, non_blocking);
  if (self.is_cpu()) {
    Machine::get().stale.forget(source.storage().data());
  }
  const InsideKernel inside;
  Aliases aliases;
  const auto target = aliases.of(self);
  target.copy_(aliases.of(source));
  change.apply(target, self.is_xpu());
  return self;
}

c10::Scalar local_scalar(const at::Tensor& self) {
  static auto& info = named("aten::_local_scalar_dense");
  auto& machine = Machine::get();
  auto change = machine.enter(info, self.get_device());
  machine.record_copy({"device_to_host", self.get_device(), static_cast<size_t>(self.element_size()), false,
                       false, current_stream(self.get_device()).id(), 0});
  const InsideKernel inside;
  machine.stale.forget(self.storage().data());
  auto number = Aliases().of(self).clone();
  change.apply(number, false);
  return at::_local_scalar_dense(number);
}

void grow_storage(c10::StorageImpl* storage, size_t bytes) {
  if (bytes <= storage->nbytes()) {
    return;
  }
  const c10::DeviceGuard guard(storage->device());
  auto memory = device_allocator()->allocate(bytes);
  if (storage->nbytes()) {
    std::memcpy(memory.get(), storage->data(), storage->nbytes());
  }
  storage->set_data_ptr_noswap(std::move(memory));
  storage->set_nbytes(bytes);
}

at::Tensor& set_storage_part(at::Tensor& self, c10::Storage source, int64_t offset, at::IntArrayRef size,
                             at::IntArrayRef stride) {
  at::native::checkSetStorage(self, std::move(source), offset, size, stride);
  auto* impl = self.unsafeGetTensorImpl();
  if (stride.data()) {
    impl->set_sizes_and_strides(size, stride, offset);
  } else {
    impl->set_storage_offset(offset);
    impl->set_sizes_contiguous(size);
  }
  const size_t bytes = at::detail::computeStorageNbytes(
      self.sizes(), self.strides(), self.dtype().itemsize(), self.storage_offset());
  grow_storage(self.storage().unsafeGetStorageImpl(), bytes);
  return self;
}

at::Tensor& set_storage(at::Tensor& self, c10::Storage source) {
  const auto elements = static_cast<int64_t>(source.nbytes() / self.dtype().itemsize());
  return set_storage_part(self, std::move(source), 0, {elements}, {});
}

at::Tensor& set_tensor(at::Tensor& self, const at::Tensor& source) {
  return set_storage_part(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

at::Tensor& set_empty(at::Tensor& self) {
  const auto device = self.device();
  c10::Storage nothing(
      c10::Storage::use_byte_size_t(), 0, c10::DataPtr(nullptr, device), device_allocator(), true);
  return set_storage_part(self, nothing, 0, {0}, {});
}

at::Tensor as_strided(const at::Tensor& self, at::IntArrayRef size, at::IntArrayRef stride,
                      std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(self, size, stride, offset);
}

void record_stream(at::Tensor&, c10::Stream) {
  ++Machine::get().recorded_streams;
}

// Operators that PyTorch builds from others but that must be entered here: their composite form
// asks which backend a device has, and a CPU build has no answer for XPU.
constexpr const char* kEnteredHere[] = {
    "aten::convolution", "aten::convolution_overrideable", "aten::convolution_backward",
    "aten::scaled_dot_product_attention"};

const std::unordered_set<std::string> kUncounted = {
    "aten::set_.source_Storage_storage_offset", "aten::set_.source_Storage", "aten::set_.source_Tensor",
    "aten::set_", "aten::as_strided", "aten::view", "aten::_reshape_alias", "aten::record_stream"};

torch::CppFunction boxed() {
  return torch::CppFunction::makeFromBoxedFunction<&run_on_device>();
}

void register_written(torch::Library& library) {
  library.impl("empty.memory_format", TORCH_FN(empty));
  library.impl("empty_strided", TORCH_FN(empty_strided));
  library.impl("copy_", TORCH_FN(copy));
  library.impl("_local_scalar_dense", TORCH_FN(local_scalar));
  library.impl("set_.source_Storage_storage_offset", TORCH_FN(set_storage_part));
  library.impl("set_.source_Storage", TORCH_FN(set_storage));
  library.impl("set_.source_Tensor", TORCH_FN(set_tensor));
  library.impl("set_", TORCH_FN(set_empty));
  library.impl("as_strided", TORCH_FN(as_strided));
  library.impl("view", TORCH_FN(at::native::view));
  library.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  library.impl("record_stream", TORCH_FN(record_stream));
}

// The largest tensor among the inputs of an operator that are all on the CPU, if there are any.
std::optional<uint64_t> largest_on_cpu(c10::ArrayRef<const c10::IValue> inputs) {
  std::optional<uint64_t> largest;
  bool elsewhere = false;
  const auto visit = [&](const at::Tensor& tensor) {
    if (tensor.defined()) {
      elsewhere = elsewhere || !tensor.is_cpu();
      const bool has_size = tensor.layout() == c10::kStrided;  // sparse ones are several tensors
      largest = std::max<uint64_t>(largest.value_or(0), has_size ? tensor.nbytes() : 0);
    }
  };
  for (const auto& value : inputs) {
    if (value.isTensor()) {
      visit(value.toTensor());
    } else if (value.isTensorList()) {
      for (const at::Tensor& tensor : value.toTensorVector()) {
        visit(tensor);
      }
    }
  }
  return elsewhere ? std::nullopt : largest;
}

// Called for every operator that PyTorch runs; the ones on device tensors are counted elsewhere.
std::unique_ptr<at::ObserverContext> observe(const at::RecordFunction& function) {
  if (inside_kernel()) {
    return nullptr;
  }
  if (const auto largest = largest_on_cpu(function.inputs())) {
    auto& machine = Machine::get();
    const std::lock_guard<std::mutex> lock(machine.mutex);
    auto& count = machine.on_cpu[function.name()];
    ++count.count;
    count.largest_bytes = std::max(count.largest_bytes, *largest);
  }
  return nullptr;
}

}  // namespace

const std::unordered_set<std::string>& written_kernels() {
  static const std::unordered_set<std::string> names = {
      "aten::empty.memory_format", "aten::empty_strided", "aten::copy_", "aten::_local_scalar_dense"};
  return names;
}

// A fallback for the whole key ranks below composite kernels, so every operator with a CPU kernel
// is entered by name: that kernel then computes the very bits the CPU would.
const std::unordered_set<std::string>& cpu_kernels() {
  static const auto names = [] {
    std::unordered_set<std::string> found(std::begin(kEnteredHere), std::end(kEnteredHere));
    auto& dispatcher = c10::Dispatcher::singleton();
    for (const auto& name : dispatcher.getAllOpNames()) {
      const auto op = dispatcher.findOp(name);
      const auto text = c10::toString(name);
      if (name.name.rfind("aten::", 0) == 0 && op && op->hasSchema() && !kUncounted.count(text) &&
          !written_kernels().count(text) && op->hasKernelForDispatchKey(c10::DispatchKey::CPU)) {
        found.insert(text);
      }
    }
    return found;
  }();
  return names;
}

void register_kernels() {
  static auto* fallback = new torch::Library(
      torch::Library::IMPL, "_", c10::DispatchKey::XPU, __FILE__, __LINE__);
  fallback->fallback(boxed());
  static auto* library = new torch::Library(
      torch::Library::IMPL, "aten", c10::DispatchKey::XPU, __FILE__, __LINE__);
  register_written(*library);
  for (const auto& name : cpu_kernels()) {
    library->impl(name.c_str(), boxed());
  }
}

void observe_cpu_operators() {
  at::addGlobalCallback(
      at::RecordFunctionCallback(&observe).needsInputs(true).scopes({at::RecordScope::FUNCTION}));
}

}  // namespace xpu_sim
