#include "kernels.h"
#include "runtime.h"
#include "state.h"

#include <torch/csrc/Generator.h>
#include <torch/csrc/utils/pybind.h>

namespace py = pybind11;

namespace xpu_sim {

namespace {

py::dict stat_dict(const c10::CachingAllocator::StatArray& stats) {
  const char* pools[] = {"all", "small_pool", "large_pool"};
  py::dict result;
  for (size_t i = 0; i < stats.size(); ++i) {
    py::dict one;
    one["current"] = stats[i].current;
    one["peak"] = stats[i].peak;
    one["allocated"] = stats[i].allocated;
    one["freed"] = stats[i].freed;
    result[pools[i]] = one;
  }
  return result;
}

py::dict memory_stats(int device) {
  check_device(device);
  const auto memory = c10::getDeviceAllocator(c10::kXPU)->getDeviceStats(static_cast<c10::DeviceIndex>(device));
  py::dict result;
  result["allocation"] = stat_dict(memory.allocation);
  result["active"] = stat_dict(memory.active);
  result["allocated_bytes"] = stat_dict(memory.allocated_bytes);
  result["reserved_bytes"] = stat_dict(memory.reserved_bytes);
  result["active_bytes"] = stat_dict(memory.active_bytes);
  result["requested_bytes"] = stat_dict(memory.requested_bytes);
  result["num_alloc_retries"] = memory.num_alloc_retries;
  result["num_ooms"] = memory.num_ooms;
  return result;
}

// The numbers are copied first: making Python objects may collect tensors, which takes the lock.
std::map<std::string, uint64_t> counts(const std::string& which, int device) {
  std::map<std::string, uint64_t> result;
  const std::lock_guard<std::mutex> lock(Machine::get().mutex);
  for (const auto& [name, info] : Machine::get().operators) {
    const uint64_t count = which == "executed" ? info->executed[device] : info->fell_back[device];
    if (count) {
      result[name] = count;
    }
  }
  return result;
}

std::map<std::string, std::pair<uint64_t, uint64_t>> on_cpu() {
  std::map<std::string, std::pair<uint64_t, uint64_t>> result;
  const std::lock_guard<std::mutex> lock(Machine::get().mutex);
  for (const auto& [name, count] : Machine::get().on_cpu) {
    result[name] = {count.count, count.largest_bytes};
  }
  return result;
}

void reset_statistics() {
  auto& machine = Machine::get();
  const std::lock_guard<std::mutex> lock(machine.mutex);
  machine.copies.clear();
  machine.copies_dropped = 0;
  machine.recorded_streams = 0;
  machine.on_cpu.clear();
  for (auto& [name, info] : machine.operators) {
    for (int device = 0; device < kMaxDevices; ++device) {
      info->executed[device] = 0;
      info->fell_back[device] = 0;
    }
  }
}

void bind_settings(py::module& module) {
  py::class_<DeviceSettings>(module, "DeviceSettings")
      .def(py::init<>())
      .def_readwrite("name", &DeviceSettings::name)
      .def_readwrite("total_bytes", &DeviceSettings::total_bytes)
      .def_readwrite("max_allocation_bytes", &DeviceSettings::max_allocation_bytes)
      .def_readwrite("other_process_bytes", &DeviceSettings::other_process_bytes)
      .def_readwrite("memory_info", &DeviceSettings::memory_info)
      .def_readwrite("when_full", &DeviceSettings::when_full)
      .def_readwrite("when_full_message", &DeviceSettings::when_full_message)
      .def_readwrite("sdpa", &DeviceSettings::sdpa)
      .def_readwrite("has_fp16", &DeviceSettings::has_fp16)
      .def_readwrite("has_bf16", &DeviceSettings::has_bf16)
      .def_readwrite("has_fp64", &DeviceSettings::has_fp64)
      .def_readwrite("integrated", &DeviceSettings::integrated)
      .def_readwrite("missing_operators", &DeviceSettings::missing_operators);
}

void bind_records(py::module& module) {
  py::class_<FaultRule>(module, "FaultRule")
      .def(py::init<>())
      .def_readwrite("operator_glob", &FaultRule::operator_glob)
      .def_readwrite("effect", &FaultRule::effect)
      .def_readwrite("message", &FaultRule::message)
      .def_readwrite("device", &FaultRule::device)
      .def_readwrite("nth", &FaultRule::nth)
      .def_readwrite("times", &FaultRule::times)
      .def_readwrite("probability", &FaultRule::probability)
      .def_readwrite("seed", &FaultRule::seed)
      .def_readwrite("above_bytes", &FaultRule::above_bytes)
      .def_readonly("calls", &FaultRule::calls)
      .def_readonly("fired", &FaultRule::fired);
  py::class_<Copy>(module, "Copy")
      .def_readonly("direction", &Copy::direction)
      .def_readonly("device", &Copy::device)
      .def_readonly("bytes", &Copy::bytes)
      .def_readonly("pinned", &Copy::pinned)
      .def_readonly("non_blocking", &Copy::non_blocking)
      .def_readonly("stream", &Copy::stream)
      .def_readonly("host_address", &Copy::host_address);
}

void bind_control(py::module& module) {
  module.def("add_device", [](const DeviceSettings& settings) {
    auto& machine = Machine::get();
    TORCH_CHECK(machine.device_count() < kMaxDevices, "At most ", kMaxDevices, " devices can be simulated.");
    machine.devices.emplace_back().settings = std::make_shared<DeviceSettings>(settings);
  });
  module.def("change_device", [](int device, const DeviceSettings& settings) {
    const std::lock_guard<std::mutex> lock(Machine::get().mutex);
    auto& state = Machine::get().devices.at(device);
    state.settings = std::make_shared<DeviceSettings>(settings);
    state.frozen_free_bytes.reset();
  });
  module.def("install", [](const std::string& lost_message, bool bf16_in_fp32) {
    Machine::get().lost_message = lost_message;
    Machine::get().bf16_in_fp32 = bf16_in_fp32;
    install_runtime();
    register_kernels();
    observe_cpu_operators();
  });
  module.def("cpu_kernels", &cpu_kernels);
  module.def("written_kernels", &written_kernels);
  module.def("runtime_calls", [] {
    return std::vector<std::string>(std::begin(kRuntimeCalls), std::end(kRuntimeCalls));
  });
  module.def("set_rules", [](const std::vector<FaultRule>& rules) { Machine::get().rules.set(rules); });
  module.def("rules", [] { return Machine::get().rules.snapshot(); });
  module.def("is_hanging", [](int device) { return Machine::get().devices.at(device).hanging.load(); });
  module.def("freed_while_hanging", [](int device) {
    const std::lock_guard<std::mutex> lock(Machine::get().mutex);
    return Machine::get().devices.at(device).freed_while_hanging;
  });
  module.def("let_go_on", [](int device) { Machine::get().let_go_on(device); });
  module.def("is_lost", [](int device) { return Machine::get().devices.at(device).lost.load(); });
  module.def("copies", [] {
    const std::lock_guard<std::mutex> lock(Machine::get().mutex);
    return std::vector<Copy>(Machine::get().copies.begin(), Machine::get().copies.end());
  });
  module.def("copies_dropped", [] {
    const std::lock_guard<std::mutex> lock(Machine::get().mutex);
    return Machine::get().copies_dropped;
  });
  module.def("recorded_streams", [] { return Machine::get().recorded_streams.load(); });
  module.def("executed", [](int device) { return counts("executed", device); });
  module.def("fell_back", [](int device) { return counts("fell_back", device); });
  module.def("on_cpu", &on_cpu);
  module.def("reset_statistics", &reset_statistics);
}

void bind_runtime(py::module& module) {
  module.def("device_count", [] { return Machine::get().device_count(); });
  module.def("current_device", &current_device);
  module.def("exchange_device", &exchange_device);
  module.def("synchronize", &synchronize, py::call_guard<py::gil_scoped_release>());
  module.def("empty_cache", [] { Machine::get().empty_cache(); });  // holds the GIL, as PyTorch's own does
  module.def("memory_info", [](int device) {
    check_device(device);
    return Machine::get().memory_info(device);
  }, py::call_guard<py::gil_scoped_release>());
  module.def("elapsed_ms", &elapsed_ms);
  module.def("memory_stats", &memory_stats);
  module.def("reset_peak", [](int device) { c10::getDeviceAllocator(c10::kXPU)->resetPeakStats(device); });
  module.def("reset_accumulated", [](int device) { c10::getDeviceAllocator(c10::kXPU)->resetAccumulatedStats(device); });
  module.def("memory_fraction", [](int device) {
    const std::lock_guard<std::mutex> lock(Machine::get().mutex);
    return Machine::get().devices.at(device).memory_fraction;
  });
  module.def("set_memory_fraction", [](double fraction, int device) {
    TORCH_CHECK(0 < fraction && fraction <= 1, "invalid fraction:", fraction, ". Please set within (0, 1].");
    const std::lock_guard<std::mutex> lock(Machine::get().mutex);
    Machine::get().devices.at(device).memory_fraction = fraction;
  });
  module.def("default_generator", [](int device) {
    return py::reinterpret_steal<py::object>(THPGenerator_initDefaultGenerator(default_generator(device)));
  });
  module.def("current_stream", [](int device) {
    const auto stream = current_stream(device);
    return py::make_tuple(stream.id(), stream.device_index(), static_cast<int64_t>(stream.device_type()));
  });
}

}  // namespace
}  // namespace xpu_sim

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  xpu_sim::bind_settings(module);
  xpu_sim::bind_records(module);
  xpu_sim::bind_control(module);
  xpu_sim::bind_runtime(module);
}
