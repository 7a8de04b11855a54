// What the files of the stand-in device share: ordinals, memory, aliases between the device and the CPU, records.
//
// A "device" here is an ordinal and a label on host memory. Every operator runs as the CPU's own kernel on a CPU tensor
// that shares the memory (an alias), and what the kernel returns is relabelled as device memory (adopted).
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <atomic>
#include <string>
#include <vector>

namespace standin {

constexpr auto kMLU = c10::DeviceType::PrivateUse1;

inline c10::Device mlu(int64_t index) {
  return {kMLU, static_cast<c10::DeviceIndex>(index)};
}

// device.cpp
const std::vector<int>& visible_devices();  // physical numbers of the devices this process sees, in its order
int64_t device_count();
int64_t current_device();
int64_t check_ordinal(int64_t index);  // the ordinal (current one for -1), or an error that names what exists
int64_t exchange_device(int64_t index);
void use_device();    // call before any real use: initialises, and refuses in a forked child
void poison_fork();   // from now on a forked child may not use the device
bool in_bad_fork();
bool is_initialised();

struct DeviceScope {  // makes a device current for a block
  explicit DeviceScope(int64_t index) : previous(exchange_device(index)) {}
  ~DeviceScope();
  int64_t previous;
};

// generator.cpp
const at::Generator& default_generator(int64_t index);
at::Generator new_generator(int64_t index);
at::Generator cpu_engine(const at::Generator& generator);  // the CPU generator that draws for a device generator

// memory.cpp
c10::DeviceAllocator* device_allocator();
c10::Allocator* growth_allocator();
c10::Allocator* pinned_allocator();
bool is_pinned(const void* pointer);
at::Tensor adopt(const at::Tensor& cpu, int64_t index);  // the same memory, now counted and labelled as the device's

// alias.cpp: the CPU aliases of one call; the same tensor or storage always gets the same alias
class Aliases {
 public:
  at::Tensor of(const at::Tensor& tensor);             // a CPU tensor is its own alias
  at::Tensor back(const at::Tensor& result, int64_t index);  // the tensor itself, a view of its storage, or adopted
  void write_back(const at::Tensor& tensor);           // an operator may have resized or restrided what it writes

 private:
  c10::Storage storage_of(const c10::Storage& storage);
  c10::SmallVector<std::pair<c10::Storage, c10::Storage>, 4> storages_;  // device, CPU
  c10::SmallVector<std::pair<at::Tensor, at::Tensor>, 6> tensors_;       // device, CPU
};

void narrow(const at::Tensor& cpu);  // what a 32-bit device would make of values that are to lie on it

struct BelowAutograd {  // kernels run below autograd and autocast, as a device kernel does
  c10::impl::ExcludeDispatchKeyGuard autograd{c10::autograd_dispatch_keyset_with_ADInplaceOrView};
  c10::impl::ExcludeDispatchKeyGuard autocast{c10::autocast_dispatch_keyset};
};

// records.cpp: what torch_mlu.testing reads
extern std::atomic<bool> recording_transfers;
extern std::atomic<bool> recording_operators;
void record_transfer(const char* direction, const std::string& op, const at::Tensor& tensor);
void record_operator(const std::string& name);

std::string environment(const char* name, const std::string& otherwise);

}  // namespace standin
