#include "runtime.h"
#include "state.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Tensor.h>
#include <ATen/detail/XPUHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <chrono>

namespace xpu_sim {

void install_allocators();
c10::Allocator* pinned_allocator();

namespace {

using Clock = std::chrono::steady_clock;

thread_local int device_now = 0;
thread_local std::array<int64_t, kMaxDevices> stream_now{};
std::atomic<int64_t> next_stream{1};

struct RecordedEvent {
  int device;
  Clock::time_point time;
};

const RecordedEvent& alive(const void* event) {
  const auto& recorded = *static_cast<const RecordedEvent*>(event);
  Machine::get().check_alive(recorded.device);
  return recorded;
}

c10::Stream make_stream(int device, int64_t id) {
  return c10::Stream(
      c10::Stream::UNSAFE, c10::Device(c10::kXPU, static_cast<c10::DeviceIndex>(device)), id);
}

c10::Stream new_stream(int device) {
  Machine::get().check_alive(device);
  return make_stream(device, next_stream++);
}

int index_of(c10::Device device) {
  return device.index() < 0 ? device_now : device.index();
}

// Work is done when it is submitted, so streams are always idle and events always complete.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override {
    return c10::kXPU;
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    return {c10::kXPU, static_cast<c10::DeviceIndex>(exchange_device(index_of(device)))};
  }
  c10::Device getDevice() const override {
    return {c10::kXPU, static_cast<c10::DeviceIndex>(device_now)};
  }
  void setDevice(c10::Device device) const override {
    exchange_device(index_of(device));
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    device_now = index_of(device);
  }
  c10::Stream getStream(c10::Device device) const override {
    return current_stream(index_of(device));
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return make_stream(index_of(device), 0);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    return new_stream(index_of(device));
  }
  c10::Stream getNewStream(c10::Device device, int) const override {
    return new_stream(index_of(device));
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    const int device = index_of(stream.device());
    const auto previous = current_stream(device);
    stream_now.at(device) = stream.id();
    return previous;
  }
  void* getStreamNativeHandle(const c10::Stream stream) const override {
    return reinterpret_cast<void*>(stream.id());
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    return static_cast<c10::DeviceIndex>(Machine::get().device_count());
  }
  c10::DeviceCapability getDeviceCapability(c10::Device) const override {
    return {};
  }
  bool queryStream(const c10::Stream& stream) const override {
    Machine::get().check_alive(index_of(stream.device()));
    return true;
  }
  void synchronizeStream(const c10::Stream& stream) const override {
    synchronize(index_of(stream.device()));
  }
  void synchronizeDevice(c10::DeviceIndex device) const override {
    synchronize(device < 0 ? device_now : device);
  }
  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override {
    delete static_cast<RecordedEvent*>(event);
  }
  void record(void** event, const c10::Stream& stream, c10::DeviceIndex, c10::EventFlag) const override {
    const int device = index_of(stream.device());
    Machine::get().check_alive(device);
    if (!*event) {
      *event = new RecordedEvent();
    }
    *static_cast<RecordedEvent*>(*event) = {device, Clock::now()};
  }
  void block(void* event, const c10::Stream& stream) const override {
    alive(event);
    Machine::get().check_alive(index_of(stream.device()));
  }
  bool queryEvent(void* event) const override {
    alive(event);
    return true;
  }
  void synchronizeEvent(void* event) const override {
    alive(event);
  }
  double elapsedTime(void* start, void* end, c10::DeviceIndex) const override {
    return elapsed_ms(reinterpret_cast<uint64_t>(start), reinterpret_cast<uint64_t>(end));
  }
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {
    ++Machine::get().recorded_streams;
  }
};

// A device's numbers differ from the CPU's for one seed, as they do on the real thing; what is
// drawn comes from a CPU generator seeded with the mixed seed.
constexpr uint64_t kSeedMix = 0x9E3779B97F4A7C15ULL;

struct DeviceGenerator final : c10::GeneratorImpl {
  explicit DeviceGenerator(int device, uint64_t seed = c10::detail::getNonDeterministicRandom())
      : c10::GeneratorImpl(
            c10::Device(c10::kXPU, static_cast<c10::DeviceIndex>(device)),
            c10::DispatchKeySet(c10::DispatchKey::XPU)),
        host(at::detail::createCPUGenerator(seed ^ kSeedMix)) {}

  void set_current_seed(uint64_t seed) override {
    host.set_current_seed(seed ^ kSeedMix);
  }
  void set_offset(uint64_t) override {
    TORCH_CHECK(false, "The simulated XPU generator has no offset.");
  }
  uint64_t get_offset() const override {
    TORCH_CHECK(false, "The simulated XPU generator has no offset.");
  }
  uint64_t current_seed() const override {
    return host.current_seed() ^ kSeedMix;
  }
  uint64_t seed() override {
    return host.seed() ^ kSeedMix;
  }
  void set_state(const c10::TensorImpl& state) override {
    host.unsafeGetGeneratorImpl()->set_state(state);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return host.unsafeGetGeneratorImpl()->get_state();
  }

  at::Generator host;

 private:
  DeviceGenerator* clone_impl() const override {
    auto* copy = new DeviceGenerator(device().index(), 0);
    copy->host = host.clone();
    return copy;
  }
};

}  // namespace

int current_device() {
  return device_now;
}

void check_device(int device) {
  const int count = Machine::get().device_count();
  TORCH_CHECK(
      device >= 0 && device < count, "The device index is out of range. It must be in [0, ", count,
      "), but got ", device, ".");
}

int exchange_device(int device) {
  check_device(device);
  const int previous = device_now;
  device_now = device;
  return previous;
}

c10::Stream current_stream(int device) {
  check_device(device);
  return make_stream(device, stream_now.at(device));
}

void synchronize(int device) {
  check_device(device);
  auto& machine = Machine::get();
  machine.enter(machine.runtime_call("synchronize"), device);
}

double elapsed_ms(uint64_t start_event, uint64_t end_event) {
  const auto& start = alive(reinterpret_cast<const void*>(start_event));
  const auto& end = alive(reinterpret_cast<const void*>(end_event));
  return std::chrono::duration<double, std::milli>(end.time - start.time).count();
}

const at::Generator& default_generator(int device) {
  check_device(device);
  static auto* generators = [] {
    auto* made = new std::vector<at::Generator>();
    for (int i = 0; i < Machine::get().device_count(); ++i) {
      made->push_back(at::make_generator<DeviceGenerator>(i));
    }
    return made;
  }();
  return generators->at(device);
}

at::Generator host_generator(const at::Generator& generator) {
  TORCH_CHECK(
      generator.device().type() == c10::kXPU, "Expected a 'xpu' device type for generator but found '",
      generator.device().type(), "'");
  return static_cast<DeviceGenerator*>(generator.unsafeGetGeneratorImpl())->host;
}

std::mutex& drawing() {
  static std::mutex mutex;
  return mutex;
}

DrawFromDevice::DrawFromDevice(int device)
    : alone_(drawing()), device_(host_generator(default_generator(device))) {
  swap();
}
DrawFromDevice::~DrawFromDevice() {
  swap();
}
void DrawFromDevice::swap() {
  auto host = at::detail::getDefaultCPUGenerator();
  const std::lock_guard<std::mutex> lock(host.mutex());
  const auto state = host.get_state();
  host.set_state(device_.get_state());
  device_.set_state(state);
}

at::Generator new_generator(int device) {
  return at::make_generator<DeviceGenerator>(device < 0 ? device_now : device, c10::default_rng_seed_val);
}

void install_runtime() {
  install_allocators();
  static const c10::impl::DeviceGuardImplRegistrar registrar(c10::kXPU, new Guard());
}

}  // namespace xpu_sim

namespace at {

// The registry looks up this very name, from inside this namespace.
struct XPUHooks final : XPUHooksInterface {
  void init() const override {}
  bool hasXPU() const override {
    return true;
  }
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return deviceCount() > 0;
  }
  bool hasPrimaryContext(DeviceIndex) const override {
    return true;
  }
  std::string showConfig() const override {
    return "simulated XPU";
  }
  int32_t getGlobalIdxFromDevice(const Device& device) const override {
    return device.index();
  }
  const Generator& getDefaultGenerator(DeviceIndex device) const override {
    return xpu_sim::default_generator(device < 0 ? xpu_sim::current_device() : device);
  }
  Generator getNewGenerator(DeviceIndex device) const override {
    return xpu_sim::new_generator(device);
  }
  DeviceIndex getNumGPUs() const override {
    return deviceCount();
  }
  DeviceIndex deviceCount() const override {
    return static_cast<DeviceIndex>(xpu_sim::Machine::get().device_count());
  }
  DeviceIndex current_device() const override {
    return static_cast<DeviceIndex>(xpu_sim::current_device());
  }
  DeviceIndex getCurrentDevice() const override {
    return current_device();
  }
  void setCurrentDevice(DeviceIndex device) const override {
    xpu_sim::exchange_device(device);
  }
  DeviceIndex exchangeDevice(DeviceIndex device) const override {
    return static_cast<DeviceIndex>(xpu_sim::exchange_device(device));
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex device) const override {
    return device < 0 ? current_device() : exchangeDevice(device);
  }
  void deviceSynchronize(DeviceIndex device) const override {
    xpu_sim::synchronize(device);
  }
  Allocator* getPinnedMemoryAllocator() const override {
    return xpu_sim::pinned_allocator();
  }
  bool isPinnedPtr(const void* data) const override {
    return xpu_sim::is_pinned(data);
  }
};

REGISTER_XPU_HOOKS(XPUHooks)

}  // namespace at
