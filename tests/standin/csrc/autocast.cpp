// Automatic mixed precision: which operators run in the low precision, which in float32. The lists follow CUDA's.
#include "standin.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/stack.h>
#include <torch/library.h>

namespace standin {

constexpr auto kAutocast = c10::DispatchKey::AutocastPrivateUse1;

static void cast_arguments(const c10::OperatorHandle& op, torch::jit::Stack* stack, at::ScalarType to) {
  const size_t count = op.schema().arguments().size();
  for (auto value = stack->end() - static_cast<int64_t>(count); value != stack->end(); ++value) {
    if (value->isTensor()) {
      *value = at::autocast::cached_cast(to, value->toTensor(), kMLU);
    } else if (value->isTensorList()) {
      c10::List<at::Tensor> list;
      for (const c10::IValue& item : value->toListRef()) {
        list.push_back(at::autocast::cached_cast(to, item.toTensor(), kMLU));
      }
      *value = std::move(list);
    }
  }
}

static void in_low_precision(const c10::OperatorHandle& op, c10::DispatchKeySet /*keys*/, torch::jit::Stack* stack) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(kAutocast);
  cast_arguments(op, stack, at::autocast::get_autocast_dtype(kMLU));
  op.callBoxed(stack);
}

static void in_float32(const c10::OperatorHandle& op, c10::DispatchKeySet /*keys*/, torch::jit::Stack* stack) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(kAutocast);
  cast_arguments(op, stack, at::kFloat);
  op.callBoxed(stack);
}

// Reductions and softmaxes take the precision of their result as an argument, which the caller may have given.
static void to_float32_result(const c10::OperatorHandle& op, c10::DispatchKeySet /*keys*/, torch::jit::Stack* stack) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(kAutocast);
  const auto& arguments = op.schema().arguments();
  const size_t first = stack->size() - arguments.size();
  const auto& input = (*stack)[first];
  for (size_t i = 0; i < arguments.size(); ++i) {
    auto& value = (*stack)[first + i];
    if (arguments[i].name() == "dtype" && value.isNone() && at::autocast::is_eligible(input.toTensor(), kMLU)) {
      value = static_cast<int64_t>(at::kFloat);
    }
  }
  op.callBoxed(stack);
}

// Operators that want one precision for all their operands get the widest among them.
static void in_widest(const c10::OperatorHandle& op, c10::DispatchKeySet /*keys*/, torch::jit::Stack* stack) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(kAutocast);
  auto widest = at::autocast::get_autocast_dtype(kMLU);
  const size_t count = op.schema().arguments().size();
  const auto see = [&](const at::Tensor& tensor) {
    if (tensor.defined() && tensor.is_privateuseone() && tensor.scalar_type() == at::kFloat) {
      widest = at::kFloat;
    }
  };
  for (auto value = stack->end() - static_cast<int64_t>(count); value != stack->end(); ++value) {
    if (value->isTensor()) {
      see(value->toTensor());
    } else if (value->isTensorList()) {
      for (const c10::IValue& item : value->toListRef()) {
        see(item.toTensor());
      }
    }
  }
  cast_arguments(op, stack, widest);
  op.callBoxed(stack);
}

static void refused(const c10::OperatorHandle& op, c10::DispatchKeySet /*keys*/, torch::jit::Stack* /*stack*/) {
  TORCH_CHECK(
      false, op.operator_name().name, " is unsafe to autocast: use binary_cross_entropy_with_logits, which is safe.");
}

static const char* const kLowPrecision[] = {
    "_convolution", "_convolution.deprecated", "conv1d", "conv1d.padding", "conv2d", "conv2d.padding", "conv3d",
    "conv3d.padding", "conv_tbc", "conv_transpose1d", "conv_transpose2d.input", "conv_transpose3d.input", "convolution",
    "prelu", "addmm", "addmv", "addr", "matmul", "einsum", "mm", "mv", "linear", "addbmm", "baddbmm", "bmm",
    "chain_matmul", "linalg_multi_dot", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell",
    "scaled_dot_product_attention"};

static const char* const kFloat32[] = {
    "acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal", "rsqrt", "sinh",
    "tan", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar", "softplus", "layer_norm", "native_layer_norm",
    "group_norm", "frobenius_norm.dim", "nuclear_norm", "nuclear_norm.dim", "norm.Scalar", "norm.ScalarOpt_dim",
    "cosine_similarity", "poisson_nll_loss", "cosine_embedding_loss", "nll_loss", "nll_loss2d", "hinge_embedding_loss",
    "kl_div", "l1_loss", "smooth_l1_loss", "huber_loss", "mse_loss", "margin_ranking_loss", "multilabel_margin_loss",
    "soft_margin_loss", "triplet_margin_loss", "multi_margin_loss", "binary_cross_entropy_with_logits", "dist", "pdist",
    "cdist", "renorm", "logsumexp", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d"};

static const char* const kFloat32Result[] = {
    "prod", "prod.dim_int", "softmax.int", "log_softmax.int", "cumprod", "cumsum", "linalg_vector_norm",
    "linalg_matrix_norm", "linalg_matrix_norm.str_ord", "sum", "sum.dim_IntList"};

static const char* const kWidest[] = {
    "addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot", "grid_sampler", "index_put", "tensordot",
    "scatter_add"};

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  for (const char* name : kLowPrecision) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&in_low_precision>());
  }
  for (const char* name : kFloat32) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&in_float32>());
  }
  for (const char* name : kFloat32Result) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&to_float32_result>());
  }
  for (const char* name : kWidest) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&in_widest>());
  }
  m.impl("binary_cross_entropy", torch::CppFunction::makeFromBoxedFunction<&refused>());
}

}  // namespace standin
