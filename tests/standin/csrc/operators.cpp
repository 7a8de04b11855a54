// The few operators that are the device's own: making, copying and re-seating memory, and convolution's entry points.
#include "standin.h"

#include <ATen/EmptyTensor.h>
#include <ATen/core/stack.h>
#include <ATen/native/Resize.h>
#include <torch/library.h>

namespace standin {

void run_as(const c10::OperatorHandle& op, torch::jit::Stack* stack);  // fallback.cpp
void fallback(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack);

static const c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

static DeviceScope scope_for(std::optional<c10::Device> device, std::optional<bool> pin_memory) {
  TORCH_CHECK(!pin_memory.value_or(false), "Only dense CPU tensors can be pinned");
  use_device();
  return DeviceScope(check_ordinal(device.has_value() ? device->index() : -1));
}

static at::Tensor empty(
    c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout> /*layout*/,
    std::optional<c10::Device> device, std::optional<bool> pin_memory, std::optional<at::MemoryFormat> format) {
  record_operator("aten::empty.memory_format");
  const auto scope = scope_for(device, pin_memory);
  return at::Tensor(at::detail::empty_generic(
      C10_AS_INTARRAYREF_SLOW(size), device_allocator(), kKeys, c10::dtype_or_default(dtype), format));
}

static at::Tensor empty_strided(
    c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
    std::optional<at::Layout> /*layout*/, std::optional<c10::Device> device, std::optional<bool> pin_memory) {
  record_operator("aten::empty_strided");
  const auto scope = scope_for(device, pin_memory);
  return at::Tensor(at::detail::empty_strided_generic(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), device_allocator(), kKeys,
      c10::dtype_or_default(dtype)));
}

// ---- copies -------------------------------------------------------------------------------------

static at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool /*non_blocking*/) {
  use_device();
  record_operator("aten::_copy_from");
  const BelowAutograd below;
  if (from.is_privateuseone() != to.is_privateuseone()) {
    record_transfer(from.is_privateuseone() ? "d2h" : "h2d", "aten::_copy_from", from);
  } else if (from.device() != to.device()) {
    record_transfer("d2d", "aten::_copy_from", from);
  }
  Aliases aliases;
  const auto target = aliases.of(to);
  target.copy_(aliases.of(from));
  if (to.is_privateuseone()) {
    narrow(target);
  }
  return to;
}

static at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

// ---- geometry and storage -----------------------------------------------------------------------

static const at::Tensor& resize(
    const at::Tensor& self, c10::SymIntArrayRef size, std::optional<at::MemoryFormat> format) {
  const DeviceScope scope(self.device().index());
  auto* impl = self.unsafeGetTensorImpl();
  at::native::resize_impl_cpu_(impl, C10_AS_INTARRAYREF_SLOW(size), std::nullopt);
  if (format.has_value()) {
    TORCH_CHECK(*format != at::MemoryFormat::Preserve, "Unsupported memory format ", *format);
    impl->empty_tensor_restride(*format);
  }
  return self;
}

static at::Tensor& seat(
    at::Tensor& self, const c10::Storage& storage, int64_t offset, at::IntArrayRef size,
    at::OptionalIntArrayRef stride) {
  at::native::checkSetStorage(self, storage, offset, size, stride.value_or(at::IntArrayRef()), false);
  auto* impl = self.unsafeGetTensorImpl();
  const DeviceScope scope(self.device().index());
  impl->set_storage_offset(offset);
  at::native::resize_impl_cpu_(impl, size, stride);
  return self;
}

static at::Tensor& set_storage_offset(
    at::Tensor& self, c10::Storage storage, c10::SymInt offset, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  const auto strides = C10_AS_INTARRAYREF_SLOW(stride);
  return seat(
      self, storage, offset.expect_int(), C10_AS_INTARRAYREF_SLOW(size),
      strides.empty() ? at::OptionalIntArrayRef() : at::OptionalIntArrayRef(strides));
}

static at::Tensor& set_storage(at::Tensor& self, c10::Storage storage) {
  const int64_t length = static_cast<int64_t>(storage.nbytes() / self.itemsize());
  return seat(self, storage, 0, {length}, std::nullopt);
}

static at::Tensor& set_tensor(at::Tensor& self, const at::Tensor& source) {
  if (!self.is_same(source)) {
    seat(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
  }
  return self;
}

static at::Tensor& set_nothing(at::Tensor& self) {
  const c10::Storage none(
      c10::Storage::use_byte_size_t(), 0, c10::DataPtr(nullptr, self.device()), device_allocator(), true);
  return seat(self, none, 0, {0}, std::nullopt);
}

static void record_stream(at::Tensor& self, c10::Stream stream) {
  TORCH_CHECK(
      stream.device_type() == kMLU, "record_stream expects an MLU stream for a tensor on ", self.device(),
      ", got one of ", stream.device());
}

// ---- convolution: PyTorch hands these two to the device under names that no CPU kernel has ------

static c10::OperatorHandle find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
}

static void convolution(const c10::OperatorHandle& /*op*/, c10::DispatchKeySet /*keys*/, torch::jit::Stack* stack) {
  static const auto op = find("aten::convolution");
  run_as(op, stack);
}

static void convolution_backward(
    const c10::OperatorHandle& /*op*/, c10::DispatchKeySet /*keys*/, torch::jit::Stack* stack) {
  static const auto op = find("aten::convolution_backward");
  // The CPU's form takes the bias's size as well: after grad_output, input, weight.
  const auto with_bias = stack->back().toBoolList().get(2);
  const auto out_channels = (*stack)[stack->size() - 10].toTensor().size(1);
  const auto position = stack->end() - 7;
  stack->insert(position, with_bias ? c10::IValue(std::vector<int64_t>{out_channels}) : c10::IValue());
  run_as(op, stack);
}

// ---- registration -------------------------------------------------------------------------------

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("resize_", &resize);
  m.impl("set_.source_Storage_storage_offset", &set_storage_offset);
  m.impl("set_.source_Storage", &set_storage);
  m.impl("set_.source_Tensor", &set_tensor);
  m.impl("set_", &set_nothing);
  m.impl("record_stream", &record_stream);
  m.impl("convolution_overrideable", torch::CppFunction::makeFromBoxedFunction<&convolution>());
  m.impl("convolution_backward_overrideable", torch::CppFunction::makeFromBoxedFunction<&convolution_backward>());
}

// Structured operators would reach the fallback by way of their out= forms: slower, and with warnings of their own.
// Where the CPU has a kernel for the very form that was called, that one runs.
void register_cpu_forms() {
  static torch::Library library(torch::Library::IMPL, "aten", c10::DispatchKey::PrivateUse1, __FILE__, __LINE__);
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : dispatcher.getAllOpNames()) {
    const auto op = dispatcher.findOp(name);
    if (name.name.rfind("aten::", 0) == 0 && op.has_value() && op->hasSchema() &&
        op->hasKernelForDispatchKey(c10::DispatchKey::CPU) &&
        !op->hasKernelForDispatchKey(c10::DispatchKey::PrivateUse1) &&
        op->hasComputedKernelForDispatchKey(c10::DispatchKey::PrivateUse1)) {
      library.impl(c10::toString(name).c_str(), torch::CppFunction::makeFromBoxedFunction<&fallback>());
    }
  }
}

// Copying resolves conjugate and negative views; resolving them here first would copy, and so never end.
TORCH_LIBRARY_IMPL(aten, Conjugate, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
}
TORCH_LIBRARY_IMPL(aten, Negative, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
}

}  // namespace standin
