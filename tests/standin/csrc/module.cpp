// The stand-in device in one translation unit (PyTorch's headers are read once), its records and its Python functions.
#include "standin.h"

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/utils/pybind.h>

#include <mutex>
#include <unordered_set>

#include "device.cpp"
#include "memory.cpp"
#include "generator.cpp"
#include "alias.cpp"
#include "fallback.cpp"
#include "operators.cpp"
#include "autocast.cpp"
#include "cncl.cpp"

namespace standin {

// ---- records ------------------------------------------------------------------------------------

std::atomic<bool> recording_transfers{false};
std::atomic<bool> recording_operators{false};

static std::mutex operators_lock;
static std::unordered_set<std::string> operators_seen;
static PyObject* on_transfer = nullptr;  // guarded by the GIL; kept for the life of the process

void record_operator(const std::string& name) {
  if (recording_operators) {
    const std::lock_guard<std::mutex> lock(operators_lock);
    operators_seen.insert(name);
  }
}

// Python takes the record, so that it can look at its own stack. Also called from autograd's threads.
void record_transfer(const char* direction, const std::string& op, const at::Tensor& tensor) {
  if (!recording_transfers) {
    return;
  }
  const pybind11::gil_scoped_acquire gil;
  if (on_transfer != nullptr) {
    const pybind11::handle callback(on_transfer);
    callback(direction, op, tensor.sizes().vec(), std::string(c10::toString(tensor.scalar_type())));
  }
}

static void record_transfers_to(const pybind11::object& callback) {
  Py_XDECREF(on_transfer);
  on_transfer = callback.is_none() ? nullptr : callback.inc_ref().ptr();
  recording_transfers = on_transfer != nullptr;
}

static void start_recording_operators() {
  const std::lock_guard<std::mutex> lock(operators_lock);
  operators_seen.clear();
  recording_operators = true;
}

static std::unordered_set<std::string> stop_recording_operators() {
  recording_operators = false;
  const std::lock_guard<std::mutex> lock(operators_lock);
  return operators_seen;
}

}  // namespace standin

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  using namespace standin;
  m.def("register_hooks", &register_hooks);
  m.def("register_cpu_forms", &register_cpu_forms);
  m.def("device_count", &device_count);
  m.def("visible_devices", &visible_devices);
  m.def("check_ordinal", &check_ordinal);
  m.def("use_device", &use_device);
  m.def("poison_fork", &poison_fork);
  m.def("is_in_bad_fork", &in_bad_fork);
  m.def("is_initialised", &is_initialised);
  m.def("default_generator", &default_generator);
  m.def("record_transfers_to", &record_transfers_to);
  m.def("start_recording_operators", &start_recording_operators);
  m.def("stop_recording_operators", &stop_recording_operators);
  m.def("cncl_over", &cncl_over, pybind11::call_guard<pybind11::gil_scoped_release>());
}
