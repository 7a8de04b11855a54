// Device memory is host memory that is counted per device and limited; pinned memory is host memory that is remembered.
#include "standin.h"

#include <c10/core/CPUAllocator.h>

#include <map>
#include <mutex>

namespace standin {

// ---- counting -----------------------------------------------------------------------------------

static std::mutex stats_lock;
static std::map<int64_t, c10::CachingDeviceAllocator::DeviceStats> stats;  // by ordinal

static size_t memory_limit() {
  static const size_t bytes = std::stoull(environment("STANDIN_MLU_MEMORY_LIMIT", std::to_string(16ull << 30)));
  return bytes;
}

static size_t rounded(size_t bytes) {
  return (bytes + 511) / 512 * 512;  // as the allocators of real devices round
}

template <typename Change>
static void each_stat(c10::CachingDeviceAllocator::DeviceStats& of, size_t bytes, Change change) {
  const size_t pool = static_cast<size_t>(
      bytes < (1 << 20) ? c10::CachingAllocator::StatType::SMALL_POOL : c10::CachingAllocator::StatType::LARGE_POOL);
  for (const size_t type : {size_t{0}, pool}) {
    for (auto* counts : {&of.allocation, &of.segment, &of.active}) {
      change((*counts)[type], 1);
    }
    for (auto* sums : {&of.allocated_bytes, &of.reserved_bytes, &of.active_bytes, &of.requested_bytes}) {
      change((*sums)[type], bytes);
    }
  }
}

static void count_allocation(int64_t index, size_t requested) {
  const size_t bytes = rounded(requested);
  const std::lock_guard<std::mutex> lock(stats_lock);
  auto& of = stats[index];
  const size_t used = of.allocated_bytes[0].current;
  if (used + bytes > memory_limit()) {
    of.num_ooms += 1;
    using c10::CachingAllocator::format_size;
    TORCH_CHECK_WITH(
        OutOfMemoryError, false,
        "MLU out of memory. Tried to allocate ", format_size(bytes), ". MLU ", index, " has a total capacity of ",
        format_size(memory_limit()), " of which ", format_size(memory_limit() - used), " is free (stand-in device).");
  }
  of.num_device_alloc += 1;
  each_stat(of, bytes, [](c10::CachingAllocator::Stat& stat, size_t amount) { stat.increase(amount); });
}

static void count_release(int64_t index, size_t requested) {
  const std::lock_guard<std::mutex> lock(stats_lock);
  auto& of = stats[index];
  of.num_device_free += 1;
  each_stat(of, rounded(requested), [](c10::CachingAllocator::Stat& stat, size_t amount) { stat.decrease(amount); });
}

// ---- the device's allocator ---------------------------------------------------------------------

struct Block {  // owns host memory on behalf of a device
  c10::DataPtr host;
  c10::Storage adopted;
  int64_t index;
  size_t bytes;
};

static void release(void* context) {
  auto* block = static_cast<Block*>(context);
  count_release(block->index, block->bytes);
  delete block;
}

static c10::DataPtr owned(void* pointer, Block block) {
  const auto device = mlu(block.index);
  return {pointer, new Block(std::move(block)), &release, device};
}

struct StandinAllocator final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t bytes) override {
    use_device();
    const int64_t index = current_device();
    if (bytes == 0) {
      return {nullptr, mlu(index)};
    }
    count_allocation(index, bytes);
    auto host = c10::GetCPUAllocator()->allocate(bytes);
    void* pointer = host.get();
    return owned(pointer, {std::move(host), {}, index, bytes});
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return nullptr;
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
  bool initialized() override {
    return is_initialised();
  }
  void emptyCache(c10::MempoolId_t /*pool*/) override {}  // nothing is cached
  void recordStream(const c10::DataPtr& /*pointer*/, c10::Stream /*stream*/) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex index) override {
    const std::lock_guard<std::mutex> lock(stats_lock);
    return stats[check_ordinal(index)];
  }
  void resetAccumulatedStats(c10::DeviceIndex index) override {
    reset(index, &c10::CachingAllocator::Stat::reset_accumulated);
  }
  void resetPeakStats(c10::DeviceIndex index) override {
    reset(index, &c10::CachingAllocator::Stat::reset_peak);
  }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex index) override {
    const size_t used = getDeviceStats(index).allocated_bytes[0].current;
    return {memory_limit() - used, memory_limit()};
  }

 private:
  static void reset(c10::DeviceIndex index, void (c10::CachingAllocator::Stat::*reset)()) {
    const std::lock_guard<std::mutex> lock(stats_lock);
    auto& of = stats[check_ordinal(index)];
    for (auto* array : {&of.allocation, &of.segment, &of.active, &of.allocated_bytes, &of.reserved_bytes,
                        &of.active_bytes, &of.requested_bytes}) {
      for (auto& stat : *array) {
        (stat.*reset)();
      }
    }
  }
};

static StandinAllocator the_allocator;
REGISTER_ALLOCATOR(kMLU, &the_allocator);

c10::DeviceAllocator* device_allocator() {
  return &the_allocator;
}

// For the aliases' storage: what a CPU kernel allocates in growing an output counts as the device's from the start, but
// is labelled as the CPU's while the kernel runs.
struct GrowthAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    auto pointer = the_allocator.allocate(bytes);
    pointer.unsafe_set_device(c10::kCPU);
    return pointer;
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

c10::Allocator* growth_allocator() {
  static GrowthAllocator allocator;
  return &allocator;
}

at::Tensor adopt(const at::Tensor& cpu, int64_t index) {
  if (!cpu.defined()) {
    return cpu;
  }
  TORCH_CHECK_NOT_IMPLEMENTED(
      cpu.layout() == c10::kStrided, "The stand-in MLU device has no ", cpu.layout(), " tensors.");
  const auto& from = cpu.storage();
  const size_t bytes = from.nbytes();
  c10::DataPtr pointer(nullptr, mlu(index));
  if (bytes > 0) {
    count_allocation(index, bytes);
    pointer = owned(from.mutable_data(), {{}, from, index, bytes});
  }
  c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, std::move(pointer), &the_allocator, true);
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), cpu.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(cpu.sizes(), cpu.strides(), cpu.storage_offset());
  return tensor;
}

// ---- pinned host memory -------------------------------------------------------------------------

static std::mutex pinned_lock;
static std::map<const char*, size_t> pinned_ranges;

static void release_pinned(void* context) {
  auto* host = static_cast<c10::DataPtr*>(context);
  const std::lock_guard<std::mutex> lock(pinned_lock);
  pinned_ranges.erase(static_cast<const char*>(host->get()));
  delete host;
}

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    use_device();
    auto* host = new c10::DataPtr(c10::GetCPUAllocator()->allocate(bytes));
    const std::lock_guard<std::mutex> lock(pinned_lock);
    pinned_ranges[static_cast<const char*>(host->get())] = bytes;
    return {host->get(), host, &release_pinned, c10::Device(c10::kCPU)};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

c10::Allocator* pinned_allocator() {
  static PinnedAllocator allocator;
  return &allocator;
}

bool is_pinned(const void* pointer) {
  const std::lock_guard<std::mutex> lock(pinned_lock);
  auto range = pinned_ranges.upper_bound(static_cast<const char*>(pointer));
  if (range == pinned_ranges.begin()) {
    return false;
  }
  --range;
  return static_cast<const char*>(pointer) < range->first + std::max<size_t>(range->second, 1);
}

}  // namespace standin
