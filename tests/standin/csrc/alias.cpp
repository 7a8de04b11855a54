// Device tensors seen as CPU tensors and back, without a copy.
#include "standin.h"

namespace standin {

// A real MLU keeps float64 as float32, and so does this one unless STANDIN_MLU_FLOAT32=0. Its int64 is true.
void narrow(const at::Tensor& cpu) {
  static const bool floats = environment("STANDIN_MLU_FLOAT32", "1") == "1";
  if (floats && cpu.scalar_type() == at::kDouble) {
    const BelowAutograd below;
    cpu.copy_(cpu.to(at::kFloat));
  }
}

static void set_geometry(const at::Tensor& tensor, const at::Tensor& like) {
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
}

c10::Storage Aliases::storage_of(const c10::Storage& storage) {
  for (const auto& [device, cpu] : storages_) {
    if (device.is_alias_of(storage)) {
      return cpu;
    }
  }
  // The alias keeps the device's storage alive. What a kernel allocates in growing it, write_back hands over.
  c10::DataPtr pointer(
      storage.mutable_data(), new c10::Storage(storage),
      [](void* context) { delete static_cast<c10::Storage*>(context); }, c10::Device(c10::kCPU));
  c10::Storage cpu(
      c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(pointer), growth_allocator(), storage.resizable());
  storages_.emplace_back(storage, cpu);
  return cpu;
}

at::Tensor Aliases::of(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_privateuseone()) {
    return tensor;
  }
  for (const auto& [device, cpu] : tensors_) {
    if (device.is_same(tensor)) {
      return cpu;
    }
  }
  auto cpu = at::detail::make_tensor<c10::TensorImpl>(
      storage_of(tensor.storage()), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  set_geometry(cpu, tensor);
  if (tensor.is_conj()) {
    cpu._set_conj(true);
  }
  if (tensor.is_neg()) {
    cpu._set_neg(true);
  }
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) {
    cpu.unsafeGetTensorImpl()->set_wrapped_number(true);
  }
  tensors_.emplace_back(tensor, cpu);
  return cpu;
}

at::Tensor Aliases::back(const at::Tensor& result, int64_t index) {
  if (!result.defined() || result.is_privateuseone()) {
    return result;
  }
  for (const auto& [device, cpu] : tensors_) {
    if (cpu.is_same(result)) {
      return device;
    }
  }
  for (const auto& [storage, cpu_storage] : storages_) {
    if (result.has_storage() && cpu_storage.is_alias_of(result.storage())) {
      // A view. It must be made as one and with its base's keys, or inference mode takes it for a normal tensor.
      for (const auto& [base, cpu_base] : tensors_) {
        if (base.storage().is_alias_of(storage)) {
          auto view = at::detail::make_tensor<c10::TensorImpl>(
              c10::TensorImpl::VIEW, c10::Storage(storage), base.key_set(), result.dtype());
          set_geometry(view, result);
          return view;
        }
      }
    }
  }
  narrow(result);
  auto adopted = adopt(result, index);
  // Two results that share their memory must go on sharing it.
  storages_.emplace_back(adopted.storage(), result.storage());
  tensors_.emplace_back(adopted, result);
  return adopted;
}

void Aliases::write_back(const at::Tensor& tensor) {
  const auto cpu = of(tensor);
  narrow(cpu);
  auto* storage = tensor.storage().unsafeGetStorageImpl();
  auto* cpu_storage = cpu.storage().unsafeGetStorageImpl();
  if (cpu_storage->data() != storage->data()) {
    auto pointer = std::move(cpu_storage->mutable_data_ptr());
    pointer.unsafe_set_device(storage->device());
    storage->set_data_ptr_noswap(std::move(pointer));
    storage->set_nbytes(cpu_storage->nbytes());
  }
  if (cpu.sizes() != tensor.sizes() || cpu.strides() != tensor.strides() ||
      cpu.storage_offset() != tensor.storage_offset()) {
    set_geometry(tensor, cpu);
  }
}

}  // namespace standin
