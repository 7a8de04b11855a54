// The boxed kernel behind every operator: check the operands as a real device does, run the CPU's kernel on aliases.
#include "standin.h"

#include <ATen/core/enum_tag.h>
#include <ATen/core/stack.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <unordered_map>
#include <unordered_set>

namespace standin {

// ---- what is known of an operator ---------------------------------------------------------------

struct OpInfo {
  std::string name;                // aten::add.Tensor
  std::string base;                // add
  std::vector<bool> writes;        // argument by argument
  std::vector<bool> cpu_indices;   // arguments that CUDA, too, takes from the CPU
  int64_t generator = -1;          // its position
  bool hidden_randomness = false;  // draws numbers but takes no generator
  bool reads_back = false;         // its result's shape or value has to come to the host
  bool writes_any = false;
};

// Operators that, on a device, wait for it and copy a value or a count to the host.
static const std::unordered_set<std::string> kReadsBack = {
    "_local_scalar_dense", "bincount", "equal", "is_nonzero", "masked_select", "nonzero", "_unique", "_unique2",
    "unique_consecutive", "unique_dim", "unique_dim_consecutive", "repeat_interleave", "nms"};

// Operators that index with tensors: the indices may lie on the CPU, and are then copied to the device.
static const std::unordered_set<std::string> kIndexing = {
    "index", "_unsafe_index", "_unsafe_masked_index", "index_put", "index_put_", "_unsafe_index_put", "_index_put_impl",
    "_index_put_impl_"};

// Operators that compute int64 in int32 (torch_mlu r1.22 for torch 2.4, calls of cast_long_to_int_if_needed).
static const std::unordered_set<std::string> kInt32 = {
    "abs", "amax", "amin", "argmax", "argmin", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "clamp",
    "clamp_max", "clamp_min", "cross", "cummax", "cummin", "cumprod", "div", "floor_divide", "fmod", "histc",
    "index_add", "index_fill", "kthvalue", "logical_and", "logical_or", "logical_xor", "masked_fill", "max", "maximum",
    "median", "min", "minimum", "neg", "prod", "put", "remainder", "repeat_interleave", "scatter", "sort", "threshold",
    "topk", "trace", "tril", "triu"};

static bool on(const std::string& value) {
  return value == "1" || value == "ON" || value == "on";
}

static OpInfo describe(const c10::OperatorHandle& op) {
  OpInfo info;
  info.name = c10::toString(op.operator_name());
  info.base = op.operator_name().name;
  info.base = info.base.substr(info.base.rfind(':') + 1);
  const auto& schema = op.schema();
  for (const auto& argument : schema.arguments()) {
    const auto* aliasing = argument.alias_info();
    info.writes.push_back(aliasing != nullptr && aliasing->isWrite());
    info.writes_any = info.writes_any || info.writes.back();
    info.cpu_indices.push_back(argument.name() == "indices" && kIndexing.count(info.base) > 0);
    auto type = argument.type();
    if (const auto optional = type->cast<c10::OptionalType>()) {
      type = optional->getElementType();
    }
    if (type->kind() == c10::TypeKind::GeneratorType) {
      info.generator = static_cast<int64_t>(info.writes.size()) - 1;
    }
  }
  info.hidden_randomness = info.generator < 0 && op.hasTag(at::Tag::nondeterministic_seeded);
  info.reads_back = kReadsBack.count(info.base) > 0;
  return info;
}

static const OpInfo& info_of(const c10::OperatorHandle& op) {
  // Schemas live as long as their operators, which never leave the dispatcher here; a thread's own map needs no lock.
  static thread_local std::unordered_map<const void*, OpInfo> known;
  const void* key = &op.schema();
  const auto found = known.find(key);
  return found != known.end() ? found->second : known.emplace(key, describe(op)).first->second;
}

// CUDA takes a 0-dim CPU tensor where the kernel takes a number: pointwise operators and a few that fill.
static bool takes_cpu_scalars(const OpInfo& info) {
  static const std::unordered_set<std::string> names = [] {
    std::unordered_set<std::string> all = {"where", "fill", "masked_fill", "index_fill", "index_put",
                                           "_index_put_impl", "_unsafe_index_put"};
    auto& dispatcher = c10::Dispatcher::singleton();
    for (const auto& name : dispatcher.getAllOpNames()) {
      const auto op = dispatcher.findOp(name);
      if (op.has_value() && op->hasSchema() && op->hasTag(at::Tag::pointwise)) {
        auto base = name.name.substr(name.name.rfind(':') + 1);
        all.insert(base.back() == '_' ? base.substr(0, base.size() - 1) : base);
      }
    }
    return all;
  }();
  const auto& base = info.base;
  return names.count(base.back() == '_' ? base.substr(0, base.size() - 1) : base) > 0;
}

// ---- operands -----------------------------------------------------------------------------------

template <typename Visit>
static void each_tensor(const c10::IValue& value, Visit visit) {
  if (value.isTensor()) {
    visit(value.toTensor(), false);
  } else if (value.isTensorList() || value.isOptionalTensorList()) {
    for (const c10::IValue& item : value.toListRef()) {
      if (item.isTensor()) {
        visit(item.toTensor(), true);
      }
    }
  }
}

// The ordinal that the operands share. Factories, which have none, name a device instead.
static int64_t common_device(c10::ArrayRef<c10::IValue> arguments) {
  int64_t index = -1;
  for (const auto& argument : arguments) {
    each_tensor(argument, [&](const at::Tensor& tensor, bool) {
      if (index < 0 && tensor.defined() && tensor.is_privateuseone()) {
        index = tensor.device().index();
      }
    });
  }
  for (size_t i = 0; index < 0 && i < arguments.size(); ++i) {
    if (arguments[i].isDevice() && arguments[i].toDevice().type() == kMLU) {
      return check_ordinal(arguments[i].toDevice().index());
    }
  }
  return index < 0 ? current_device() : index;
}

static void check_operands(
    const OpInfo& info, const c10::FunctionSchema& schema, c10::ArrayRef<c10::IValue> arguments, int64_t index) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    each_tensor(arguments[i], [&](const at::Tensor& tensor, bool in_list) {
      if (!tensor.defined() || (tensor.is_privateuseone() && tensor.device().index() == index)) {
        return;
      }
      if (tensor.is_cpu()) {
        const bool scalar = tensor.dim() == 0 && !in_list && !info.writes[i];
        if (scalar && (tensor.unsafeGetTensorImpl()->is_wrapped_number() || takes_cpu_scalars(info))) {
          return;
        }
        if (info.cpu_indices[i]) {
          record_transfer("h2d", info.name, tensor);
          return;
        }
      }
      TORCH_CHECK(
          false, "Expected all tensors to be on the same device, but found at least two devices, ", mlu(index), " and ",
          tensor.device(), "! (when checking argument ", schema.arguments()[i].name(), " of ", info.name, ")");
    });
  }
}

// A result whose value or shape comes to the host is a copy that the caller waits for: recorded as one.
static void record_read_back(const OpInfo& info, c10::ArrayRef<c10::IValue> arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const bool masks = info.cpu_indices[i];  // a boolean index is counted on the device, and the count read
    if (info.reads_back || masks) {
      each_tensor(arguments[i], [&](const at::Tensor& tensor, bool) {
        if (tensor.defined() && tensor.is_privateuseone() && (!masks || tensor.scalar_type() == at::kBool)) {
          record_transfer("d2h", info.name, tensor);
        }
      });
      if (info.reads_back) {
        return;
      }
    }
  }
}

static c10::IValue aliased(Aliases& aliases, const c10::IValue& value) {
  if (value.isTensor()) {
    return aliases.of(value.toTensor());
  }
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const c10::IValue& item : value.toListRef()) {
      list.push_back(aliases.of(item.toTensor()));
    }
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> list;
    for (const c10::IValue& item : value.toListRef()) {
      list.push_back(item.isNone() ? std::nullopt : std::make_optional(aliases.of(item.toTensor())));
    }
    return list;
  }
  if (value.isDevice() && value.toDevice().type() == kMLU) {
    return c10::Device(c10::kCPU);
  }
  return value;
}

static c10::IValue returned(Aliases& aliases, const c10::IValue& value, int64_t index) {
  if (value.isTensor()) {
    return aliases.back(value.toTensor(), index);
  }
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const c10::IValue& item : value.toListRef()) {
      list.push_back(aliases.back(item.toTensor(), index));
    }
    return list;
  }
  return value;
}

// ---- random numbers -----------------------------------------------------------------------------

static c10::IValue engine_for(const OpInfo& info, const c10::IValue& given, int64_t index) {
  if (given.isNone()) {
    return cpu_engine(default_generator(index));
  }
  const auto generator = given.toGenerator();
  TORCH_CHECK(
      generator.device().type() == kMLU, "Expected a 'mlu' device type for generator but found '",
      generator.device().type(), "' (in ", info.name, ")");
  return cpu_engine(generator);
}

// An operator without a generator argument draws from the CPU's default one: lend that one the device's state.
struct LentState {
  explicit LentState(int64_t index)
      : device(cpu_engine(default_generator(index))), cpu(at::detail::getDefaultCPUGenerator()), kept(cpu.get_state()) {
    cpu.set_state(device.get_state());
  }
  ~LentState() {
    device.set_state(cpu.get_state());
    cpu.set_state(kept);
  }
  at::Generator device, cpu;
  at::Tensor kept;
};

// With ENABLE_MLU_OVERFLOW_CHECK=1 an integer that they would cut off is an error, as in the real one.
static void check_int32(const OpInfo& info, const std::vector<c10::IValue>& given) {
  static const bool checks = on(environment("ENABLE_MLU_OVERFLOW_CHECK", "0"));
  std::string name = info.base;
  while (!name.empty() && name.back() == '_') {
    name.pop_back();  // in place
  }
  if (!checks || kInt32.count(name) == 0) {
    return;
  }
  Aliases aliases;
  for (size_t i = 0; i < given.size(); ++i) {
    each_tensor(given[i], [&](const at::Tensor& tensor, bool) {
      if (tensor.defined() && tensor.is_privateuseone() && tensor.scalar_type() == at::kLong && tensor.numel() > 0) {
        const BelowAutograd below;
        const auto cpu = aliases.of(tensor);
        for (const auto& extreme : {cpu.min(), cpu.max()}) {
          const auto value = *extreme.const_data_ptr<int64_t>();
          if (value != static_cast<int32_t>(value)) {
            throw std::runtime_error("Overflow occurred! there is a tensor that does cast from int64 value to int32.");
          }
        }
      }
    });
  }
}

// ---- the kernel ---------------------------------------------------------------------------------

void run_as(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  use_device();
  const OpInfo& info = info_of(op);
  const auto& schema = op.schema();
  const size_t inputs = schema.arguments().size();
  const std::vector<c10::IValue> given(stack->end() - static_cast<int64_t>(inputs), stack->end());
  const int64_t index = common_device(given);
  check_operands(info, schema, given, index);
  check_int32(info, given);
  record_operator(info.name);
  if (recording_transfers) {
    record_read_back(info, given);
  }

  const DeviceScope scope(index);
  Aliases aliases;
  for (size_t i = 0; i < inputs; ++i) {
    auto& slot = (*stack)[stack->size() - inputs + i];
    slot = static_cast<int64_t>(i) == info.generator ? engine_for(info, given[i], index) : aliased(aliases, given[i]);
  }
  {
    const BelowAutograd below;
    std::optional<LentState> lent;
    if (info.hidden_randomness) {
      lent.emplace(index);
    }
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  }
  for (size_t i = 0; info.writes_any && i < inputs; ++i) {
    if (info.writes[i]) {
      each_tensor(given[i], [&](const at::Tensor& tensor, bool) {
        if (tensor.defined() && tensor.is_privateuseone()) {
          aliases.write_back(tensor);
        }
      });
    }
  }
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); ++i) {
    (*stack)[i] = returned(aliases, (*stack)[i], index);
  }
}

void fallback(const c10::OperatorHandle& op, c10::DispatchKeySet /*keys*/, torch::jit::Stack* stack) {
  run_as(op, stack);
}

}  // namespace standin
