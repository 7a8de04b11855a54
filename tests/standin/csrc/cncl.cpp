// The collective backend `cncl`: gloo on the CPU aliases of device tensors, refusing what the real one refuses.
#include "standin.h"

#include <ATen/core/ivalue.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/reducer_timer.hpp>

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <thread>

namespace standin {

using Tensors = std::vector<at::Tensor>;
using WorkPtr = c10::intrusive_ptr<c10d::Work>;

static void flatten(Tensors& into, const Tensors& tensors) {
  into.insert(into.end(), tensors.begin(), tensors.end());
}

static bool any_set(const std::vector<std::string>& names) {
  for (const auto& name : names) {
    const char* value = std::getenv(name.c_str());
    if (value != nullptr && std::string(value) != "0") {
      return true;
    }
  }
  return false;
}

// What CNCL does when a rank is lost. By default it logs that and nobody ever learns of it: whoever waits goes on
// waiting. With error handling the process ends; with blocking wait the error reaches the caller.
static void lost(const std::string& what) {
  if (any_set({"TORCH_CNCL_BLOCKING_WAIT", "TORCH_NCCL_BLOCKING_WAIT", "NCCL_BLOCKING_WAIT"})) {
    return;
  }
  std::cerr << "Some CNCL operations have failed or timed out: " << what << std::endl;
  if (any_set(
          {"TORCH_CNCL_ASYNC_ERROR_HANDLING", "TORCH_NCCL_ASYNC_ERROR_HANDLING", "NCCL_ASYNC_ERROR_HANDLING"})) {
    std::cerr << "To avoid data inconsistency, we are taking the entire process down." << std::endl;
    std::_Exit(134);  // as an abort would, but without a core file
  }
  while (true) {
    std::this_thread::sleep_for(std::chrono::seconds(1));
  }
}

// Waits for gloo's work; its results are the device's tensors, not the aliases that gloo saw.
class WorkCNCL final : public c10d::Work {
 public:
  WorkCNCL(WorkPtr inner, int rank, Tensors outputs, bool has_future)
      : Work(rank), inner_(std::move(inner)), outputs_(std::move(outputs)), has_future_(has_future) {
    const std::vector<c10::Device> devices =
        outputs_.empty() ? std::vector<c10::Device>{} : std::vector<c10::Device>{outputs_.front().device()};
    future_ = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()), devices);
  }

  // Some of gloo's work (point-to-point, reduce_scatter) has no future: then ours completes when somebody waits.
  static WorkPtr over(WorkPtr inner, int rank, Tensors outputs) {
    c10::intrusive_ptr<c10::ivalue::Future> done;
    try {
      done = inner->getFuture();
    } catch (const c10::Error&) {
    }
    auto work = c10::make_intrusive<WorkCNCL>(std::move(inner), rank, std::move(outputs), bool(done));
    if (done) {
      done->addCallback([future = work->future_, outputs = work->outputs_](auto& done) {
        if (done.hasError()) {
          lost(done.tryRetrieveErrorMessage());
          future->setErrorIfNeeded(done.exception_ptr());
        } else {
          future->markCompleted(c10::IValue(outputs));
        }
      });
    }
    return work;
  }

  bool wait(std::chrono::milliseconds timeout) override {
    bool done = false;
    try {
      done = inner_->wait(timeout);
    } catch (const std::exception& error) {
      lost(error.what());
      throw;
    }
    if (has_future_) {
      future_->wait();  // gloo completes it around the time it wakes those who wait
    } else if (!future_->completed()) {
      future_->markCompleted(c10::IValue(outputs_));
    }
    return done;
  }
  bool isCompleted() override {
    return inner_->isCompleted();
  }
  bool isSuccess() const override {
    return inner_->isSuccess();
  }
  std::exception_ptr exception() const override {
    return inner_->exception();
  }
  int sourceRank() const override {
    return inner_->sourceRank();
  }
  void synchronize() override {
    inner_->synchronize();
  }
  void abort() override {
    inner_->abort();
  }
  Tensors result() override {
    return outputs_;
  }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override {
    return future_;
  }

 private:
  WorkPtr inner_;
  Tensors outputs_;
  bool has_future_;
  c10::intrusive_ptr<c10::ivalue::Future> future_;
};

class ProcessGroupCNCL final : public c10d::Backend {
 public:
  explicit ProcessGroupCNCL(c10::intrusive_ptr<c10d::Backend> gloo)
      : Backend(gloo->getRank(), gloo->getSize()), gloo_(std::move(gloo)) {}

  const std::string getBackendName() const override {
    return "cncl";
  }
  void setTimeout(std::chrono::milliseconds timeout) override {
    gloo_->setTimeout(timeout);
  }
  c10::intrusive_ptr<Options> getBackendOptions() override {
    return gloo_->getBackendOptions();
  }
  uint64_t getSequenceNumberForGroup() override {
    return gloo_->getSequenceNumberForGroup();
  }

  WorkPtr broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override {
    auto aliases = of(tensors);
    return over(gloo_->broadcast(aliases, options), tensors);
  }
  WorkPtr allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override {
    auto aliases = of(tensors);
    if (options.reduceOp == c10d::ReduceOp::AVG && environment("STANDIN_MLU_AVG", "0") == "1") {  // as newer CNCL
      auto sum = options;
      sum.reduceOp = c10d::ReduceOp::SUM;
      gloo_->allreduce(aliases, sum)->wait();
      for (auto& alias : aliases) {
        alias.div_(getSize());
      }
      sum.reduceOp = c10d::ReduceOp::MAX;  // of equal values: a work to return
      return over(gloo_->allreduce(aliases, sum), tensors);
    }
    check(options.reduceOp);
    return over(gloo_->allreduce(aliases, options), tensors);
  }
  WorkPtr allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) override {
    check(options.reduceOp);
    auto aliases = of(tensors);
    return over(gloo_->allreduce_coalesced(aliases, options), tensors);
  }
  WorkPtr reduce(Tensors& tensors, const c10d::ReduceOptions& options) override {
    check(options.reduceOp);
    auto aliases = of(tensors);
    return over(gloo_->reduce(aliases, options), tensors);
  }
  WorkPtr allgather(
      std::vector<Tensors>& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override {
    auto aliases = of(outputs);
    auto input_aliases = of(inputs);
    return over(gloo_->allgather(aliases, input_aliases, options), outputs);
  }
  WorkPtr _allgather_base(at::Tensor& output, at::Tensor& input, const c10d::AllgatherOptions& options) override {
    auto alias = flat(output);
    auto input_alias = flat(input);
    return over(gloo_->_allgather_base(alias, input_alias, options), Tensors{output});
  }
  WorkPtr allgather_coalesced(
      std::vector<Tensors>& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override {
    auto aliases = of(outputs);
    auto input_aliases = of(inputs);
    return over(gloo_->allgather_coalesced(aliases, input_aliases, options), outputs);
  }
  WorkPtr allgather_into_tensor_coalesced(
      Tensors& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override {
    auto aliases = flat(outputs);
    auto input_aliases = flat(inputs);
    return over(gloo_->allgather_into_tensor_coalesced(aliases, input_aliases, options), outputs);
  }
  WorkPtr gather(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::GatherOptions& options) override {
    auto aliases = of(outputs);
    auto input_aliases = of(inputs);
    return over(gloo_->gather(aliases, input_aliases, options), outputs);
  }
  WorkPtr scatter(Tensors& outputs, std::vector<Tensors>& inputs, const c10d::ScatterOptions& options) override {
    auto aliases = of(outputs);
    auto input_aliases = of(inputs);
    return over(gloo_->scatter(aliases, input_aliases, options), outputs);
  }
  WorkPtr reduce_scatter(
      Tensors& outputs, std::vector<Tensors>& inputs, const c10d::ReduceScatterOptions& options) override {
    check(options.reduceOp);
    auto aliases = of(outputs);
    auto input_aliases = of(inputs);
    return over(gloo_->reduce_scatter(aliases, input_aliases, options), outputs);
  }
  WorkPtr _reduce_scatter_base(
      at::Tensor& output, at::Tensor& input, const c10d::ReduceScatterOptions& options) override {
    check(options.reduceOp);
    auto alias = flat(output);
    auto input_alias = flat(input);
    return over(gloo_->_reduce_scatter_base(alias, input_alias, options), Tensors{output});
  }
  WorkPtr reduce_scatter_tensor_coalesced(
      Tensors& outputs, Tensors& inputs, const c10d::ReduceScatterOptions& options) override {
    check(options.reduceOp);
    auto aliases = flat(outputs);
    auto input_aliases = flat(inputs);
    return over(gloo_->reduce_scatter_tensor_coalesced(aliases, input_aliases, options), outputs);
  }
  WorkPtr alltoall_base(
      at::Tensor& output, at::Tensor& input, std::vector<int64_t>& output_sizes, std::vector<int64_t>& input_sizes,
      const c10d::AllToAllOptions& options) override {
    auto alias = of(output);
    auto input_alias = of(input);
    return over(gloo_->alltoall_base(alias, input_alias, output_sizes, input_sizes, options), Tensors{output});
  }
  WorkPtr send(Tensors& tensors, int to, int tag) override {
    auto aliases = of(tensors);
    return WorkCNCL::over(gloo_->send(aliases, to, tag), getRank(), tensors);
  }
  WorkPtr recv(Tensors& tensors, int from, int tag) override {
    auto aliases = of(tensors);
    return WorkCNCL::over(gloo_->recv(aliases, from, tag), getRank(), tensors);
  }
  WorkPtr recvAnysource(Tensors& tensors, int tag) override {
    auto aliases = of(tensors);
    return WorkCNCL::over(gloo_->recvAnysource(aliases, tag), getRank(), tensors);
  }
  WorkPtr barrier(const c10d::BarrierOptions& options) override {
    use_device();
    return over(gloo_->barrier(options), Tensors{});
  }

 private:
  c10::intrusive_ptr<c10d::Backend> gloo_;

  static void check(const c10d::ReduceOp& op) {
    TORCH_CHECK(
        op != c10d::ReduceOp::AVG,
        "cncl does not support ReduceOp.AVG: reduce with ReduceOp.SUM and divide by the world size.");
  }
  static at::Tensor of(const at::Tensor& tensor) {
    use_device();
    TORCH_CHECK(
        tensor.is_privateuseone() && tensor.layout() == c10::kStrided,
        "cncl works on dense MLU tensors only, got a tensor on ", tensor.device(), " with layout ", tensor.layout(),
        ". Move it to the MLU, or use a gloo group.");
    return Aliases().of(tensor);
  }
  static Tensors of(const Tensors& tensors) {
    Tensors aliases;
    for (const auto& tensor : tensors) {
      aliases.push_back(of(tensor));
    }
    return aliases;
  }
  // The single-tensor collectives see memory, not shapes; gloo would split the first dimension.
  static at::Tensor flat(const at::Tensor& tensor) {
    TORCH_CHECK(tensor.is_contiguous(), "cncl gathers and scatters contiguous tensors only.");
    return of(tensor).view(-1);
  }
  static Tensors flat(const Tensors& tensors) {
    Tensors aliases;
    for (const auto& tensor : tensors) {
      aliases.push_back(flat(tensor));
    }
    return aliases;
  }
  static std::vector<Tensors> of(const std::vector<Tensors>& lists) {
    std::vector<Tensors> aliases;
    for (const auto& tensors : lists) {
      aliases.push_back(of(tensors));
    }
    return aliases;
  }
  WorkPtr over(WorkPtr work, const Tensors& outputs) const {
    return WorkCNCL::over(std::move(work), getRank(), outputs);
  }
  WorkPtr over(WorkPtr work, const std::vector<Tensors>& outputs) const {
    Tensors all;
    for (const auto& tensors : outputs) {
      flatten(all, tensors);
    }
    return over(std::move(work), all);
  }
};

c10::intrusive_ptr<c10d::Backend> cncl_over(c10::intrusive_ptr<c10d::Backend> gloo) {
  return c10::make_intrusive<ProcessGroupCNCL>(std::move(gloo));
}

// DistributedDataParallel times its steps with a timer per kind of device, and warns where there is none.
struct Timer final : c10d::Timer {
  explicit Timer(c10::Device /*device*/) {}
  std::optional<int64_t> measureDifference(Event start, Event end) override {
    const auto from = getTimeRef(start), to = getTimeRef(end);
    return from < 0 || to < from ? std::nullopt : std::make_optional(to - from);
  }
};

}  // namespace standin

namespace c10d {
C10_REGISTER_TYPED_CLASS(TimerRegistry, c10::kPrivateUse1, standin::Timer)
}  // namespace c10d
