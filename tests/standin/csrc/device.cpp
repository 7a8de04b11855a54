// Ordinals, visibility, forks, streams and events: what PyTorch asks of a device guard.
#include "standin.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <pthread.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <sstream>

namespace standin {

constexpr int64_t kMostDevices = 64;

std::string environment(const char* name, const std::string& otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : value;
}

static std::vector<int> read_visible_devices() {
  const int64_t present = std::min(std::stol(environment("STANDIN_MLU_DEVICES", "2")), kMostDevices);
  std::vector<int> devices;
  for (const char* name : {"CN_VISIBLE_DEVICES", "MLU_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"}) {
    if (std::getenv(name) == nullptr) {
      continue;
    }
    std::istringstream list(environment(name, ""));
    for (std::string item; std::getline(list, item, ',');) {
      char* end = nullptr;
      const long device = std::strtol(item.c_str(), &end, 10);
      // As with CUDA, the list ends at the first entry that is no device.
      if (end == item.c_str() || device < 0 || device >= present) {
        break;
      }
      devices.push_back(static_cast<int>(device));
    }
    return devices;
  }
  for (int64_t device = 0; device < present; ++device) {
    devices.push_back(static_cast<int>(device));
  }
  return devices;
}

const std::vector<int>& visible_devices() {
  static const std::vector<int> devices = read_visible_devices();
  return devices;
}

int64_t device_count() {
  return static_cast<int64_t>(visible_devices().size());
}

// ---- forks --------------------------------------------------------------------------------------

static std::atomic<bool> initialised{false};
static std::atomic<bool> bad_fork{false};

bool in_bad_fork() {
  return bad_fork;
}

bool is_initialised() {
  return initialised && !bad_fork;
}

void poison_fork() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { bad_fork = true; });
  TORCH_INTERNAL_ASSERT(registered == 0);
}

void use_device() {
  TORCH_CHECK(
      !bad_fork,
      "Cannot re-initialize MLU in forked subprocess. To use MLU with multiprocessing, you must use the 'spawn' start "
      "method");
  if (!initialised) {
    TORCH_CHECK(device_count() > 0, "No MLU devices are available (the stand-in was given none)");
    poison_fork();
    initialised = true;
  }
}

// ---- the current device and stream, per thread --------------------------------------------------

static thread_local int64_t current = 0;
static thread_local std::array<c10::StreamId, kMostDevices> current_streams{};
static std::atomic<c10::StreamId> next_stream{1};

int64_t current_device() {
  return current;
}

int64_t check_ordinal(int64_t index) {
  if (index == -1) {
    return current;
  }
  TORCH_CHECK(
      index >= 0 && index < device_count(),
      "MLU error: invalid device ordinal ", index, ": this process sees ", device_count(), " MLU device(s)",
      device_count() > 0 ? c10::str(", mlu:0 to mlu:", device_count() - 1) : std::string(),
      ". Check the ordinal and MLU_VISIBLE_DEVICES.");
  return index;
}

int64_t exchange_device(int64_t index) {
  const int64_t previous = current;
  if (index != -1 && index != previous) {
    use_device();
    current = check_ordinal(index);
  }
  return previous;
}

DeviceScope::~DeviceScope() {
  current = previous;
}

struct StandinEvent {
  std::chrono::steady_clock::time_point time;
};

struct StandinGuard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override {
    return kMLU;
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    return mlu(exchange_device(device.index()));
  }
  c10::Device getDevice() const override {
    return mlu(current);
  }
  void setDevice(c10::Device device) const override {
    exchange_device(device.index());
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    current = device.index();
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    return static_cast<c10::DeviceIndex>(device_count());
  }

  // Work is done when the call returns, so a stream is only a number that code can pass around and compare.
  c10::Stream stream(c10::StreamId id, c10::Device device) const {
    return c10::Stream(c10::Stream::UNSAFE, mlu(check_ordinal(device.index())), id);
  }
  c10::Stream getStream(c10::Device device) const override {
    return stream(current_streams[check_ordinal(device.index())], device);
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return stream(0, device);
  }
  c10::Stream getNewStream(c10::Device device, int /*priority*/) const override {
    use_device();
    return stream(next_stream++, device);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool /*high_priority*/) const override {
    return getNewStream(device, 0);
  }
  c10::Stream exchangeStream(c10::Stream to) const override {
    return stream(std::exchange(current_streams[check_ordinal(to.device_index())], to.id()), to.device());
  }
  bool queryStream(const c10::Stream& /*stream*/) const override {
    return true;
  }
  void synchronizeStream(const c10::Stream& /*stream*/) const override {
    use_device();
  }
  void synchronizeDevice(const c10::DeviceIndex index) const override {
    use_device();
    check_ordinal(index);
  }
  void recordDataPtrOnStream(const c10::DataPtr& /*pointer*/, const c10::Stream& /*stream*/) const override {}

  void record(void** event, const c10::Stream& /*stream*/, const c10::DeviceIndex /*index*/, const c10::EventFlag)
      const override {
    if (*event == nullptr) {
      *event = new StandinEvent;
    }
    static_cast<StandinEvent*>(*event)->time = std::chrono::steady_clock::now();
  }
  void destroyEvent(void* event, const c10::DeviceIndex /*index*/) const noexcept override {
    delete static_cast<StandinEvent*>(event);
  }
  void block(void* /*event*/, const c10::Stream& /*stream*/) const override {}
  bool queryEvent(void* /*event*/) const override {
    return true;
  }
  void synchronizeEvent(void* /*event*/) const override {}
  double elapsedTime(void* begin, void* end, const c10::DeviceIndex /*index*/) const override {
    TORCH_CHECK(begin != nullptr && end != nullptr, "Both events must be recorded before calculating elapsed time.");
    const auto taken = static_cast<StandinEvent*>(end)->time - static_cast<StandinEvent*>(begin)->time;
    return std::chrono::duration<double, std::milli>(taken).count();
  }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, StandinGuard);

}  // namespace standin
