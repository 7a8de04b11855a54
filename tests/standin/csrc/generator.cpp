// Random numbers of the device's own, and the hooks through which PyTorch asks for them, for pinned memory, for init.
#include "standin.h"

#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/Resize.h>

#include <cstring>

namespace standin {

// The same seed must not give the CPU's numbers: code that counts on that would break on real hardware.
static uint64_t device_seed(uint64_t seed) {
  return (seed ^ 0x5eed0f3a11d37013ull) * 0x9e3779b97f4a7c15ull;
}

struct StandinGenerator final : c10::GeneratorImpl {
  explicit StandinGenerator(int64_t index)
      : c10::GeneratorImpl(mlu(index), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)),
        seed_(c10::default_rng_seed_val),
        engine(at::make_generator<at::CPUGeneratorImpl>(device_seed(seed_))) {}

  void set_current_seed(uint64_t seed) override {
    seed_ = seed;
    engine.set_current_seed(device_seed(seed));
  }
  uint64_t current_seed() const override {
    return seed_;
  }
  uint64_t seed() override {
    set_current_seed(c10::detail::getNonDeterministicRandom());
    return seed_;
  }
  void set_offset(uint64_t /*offset*/) override {
    TORCH_CHECK(false, "The stand-in MLU generator has no offset.");
  }
  uint64_t get_offset() const override {
    TORCH_CHECK(false, "The stand-in MLU generator has no offset.");
  }
  // The state is the seed, then the state of the engine.
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    const auto inner = engine.get_state();
    const auto bytes = static_cast<int64_t>(sizeof(seed_)) + inner.numel();
    auto state = at::detail::empty_cpu({bytes}, at::kByte);
    auto* to = static_cast<uint8_t*>(state.mutable_data_ptr());
    std::memcpy(to, &seed_, sizeof(seed_));
    std::memcpy(to + sizeof(seed_), inner.const_data_ptr(), inner.numel());
    return state.getIntrusivePtr();
  }
  void set_state(const c10::TensorImpl& state) override {
    auto inner = at::detail::empty_cpu({engine.get_state().numel()}, at::kByte);
    TORCH_CHECK(
        state.device().is_cpu() && state.dtype() == caffe2::TypeMeta::Make<uint8_t>() && state.is_contiguous() &&
            state.numel() == static_cast<int64_t>(sizeof(seed_)) + inner.numel(),
        "RNG state of an MLU must be a contiguous CPU ByteTensor as get_rng_state gives it, got ", state.numel(),
        " elements on ", state.device());
    const auto* from = static_cast<const uint8_t*>(state.data());
    std::memcpy(&seed_, from, sizeof(seed_));
    std::memcpy(inner.mutable_data_ptr(), from + sizeof(seed_), inner.numel());
    engine.set_state(at::Tensor(inner));
  }

 private:
  uint64_t seed_;

  c10::GeneratorImpl* clone_impl() const override {
    auto* copy = new StandinGenerator(device().index());
    copy->seed_ = seed_;
    copy->engine.set_state(engine.get_state());
    return copy;
  }

 public:
  at::Generator engine;  // declared after seed_, from which it is built
};

at::Generator new_generator(int64_t index) {
  return at::make_generator<StandinGenerator>(check_ordinal(index));
}

const at::Generator& default_generator(int64_t index) {
  static const std::vector<at::Generator> generators = [] {
    std::vector<at::Generator> all;
    for (int64_t i = 0; i < device_count(); ++i) {
      all.push_back(new_generator(i));
    }
    return all;
  }();
  TORCH_CHECK(!generators.empty(), "No MLU devices are available (the stand-in was given none)");
  return generators[check_ordinal(index)];
}

at::Generator cpu_engine(const at::Generator& generator) {
  return static_cast<StandinGenerator*>(generator.unsafeGetGeneratorImpl())->engine;
}

struct StandinHooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return standin::device_count() > 0;
  }
  void init() const override {
    use_device();
  }
  bool hasPrimaryContext(c10::DeviceIndex /*index*/) const override {
    return is_initialised();
  }
  c10::DeviceIndex deviceCount() const override {
    return static_cast<c10::DeviceIndex>(standin::device_count());
  }
  void setCurrentDevice(c10::DeviceIndex index) const override {
    use_device();
    exchange_device(check_ordinal(index));
  }
  c10::DeviceIndex getCurrentDevice() const override {
    return static_cast<c10::DeviceIndex>(current_device());
  }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    return static_cast<c10::DeviceIndex>(exchange_device(index));
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return static_cast<c10::DeviceIndex>(exchange_device(index));
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override {
    return default_generator(index);
  }
  at::Generator getNewGenerator(c10::DeviceIndex index) const override {
    return new_generator(index);
  }
  c10::Device getDeviceFromPtr(void* /*pointer*/) const override {
    return mlu(current_device());
  }
  bool isPinnedPtr(const void* pointer) const override {
    return is_pinned(pointer);
  }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    return pinned_allocator();
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    const DeviceScope scope(storage.device().index());
    at::native::resize_bytes_cpu(storage.unsafeGetStorageImpl(), bytes);
  }
};

void register_hooks() {
  static StandinHooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
}

}  // namespace standin
