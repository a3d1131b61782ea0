// pyasd._cuda: pointers in, the GIL released, errors raised. Shapes, dtypes and devices have been checked by pyasd.ops.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/arguments.h"
#include "cuda/devices.h"
#include "cuda/log_mel.h"
#include "cuda/mixture.h"
#include "cuda/trunk.h"

namespace py = pybind11;

namespace {

using pyasd::Arguments;

// Where kernels are enqueued.
struct Queue {
  int device;
  void* stream;
};

Queue queue_of(Arguments& given) {
  Queue queue{};
  PYASD_FIELD(given, queue, device);
  PYASD_FIELD(given, queue, stream);
  return queue;
}

// Runs enqueue(stream) with the queue's device current, and raises what went wrong.
template <class Enqueue>
void on_device(const Queue& queue, const Enqueue& enqueue) {
  int status;
  {
    py::gil_scoped_release released;
    const pyasd::CudaDeviceGuard guard(queue.device);
    status = guard.status != 0 ? guard.status : enqueue(queue.stream);
  }
  if (status != 0) throw std::runtime_error(std::string("CUDA: ") + pyasd::cuda_error_text(status));
}

void log_mel(const py::kwargs& kwargs) {
  Arguments given(kwargs);
  pyasd::cuda::LogMelArgs args{};
  PYASD_FIELD(given, args, n_fft);
  PYASD_FIELD(given, args, hop_length);
  PYASD_FIELD(given, args, n_mels);
  PYASD_FIELD(given, args, reflect);
  PYASD_FIELD(given, args, floor_add);
  PYASD_FIELD(given, args, eps);
  PYASD_FIELD(given, args, window);
  PYASD_FIELD(given, args, twiddle);
  PYASD_FIELD(given, args, band_start);
  PYASD_FIELD(given, args, band_count);
  PYASD_FIELD(given, args, band_offset);
  PYASD_FIELD(given, args, band_weights);
  PYASD_FIELD(given, args, samples);
  PYASD_FIELD(given, args, is_int16);
  PYASD_FIELD(given, args, clips);
  PYASD_FIELD(given, args, clip_stride);
  PYASD_FIELD(given, args, length);
  PYASD_FIELD(given, args, lengths);
  PYASD_FIELD(given, args, first);
  PYASD_FIELD(given, args, frames);
  PYASD_FIELD(given, args, out);
  const Queue queue = queue_of(given);
  given.end();
  on_device(queue, [&](void* stream) { return pyasd::cuda::log_mel(args, stream); });
}

pyasd::cuda::MixtureInput input_of(Arguments& given) {
  pyasd::cuda::MixtureInput input{};
  PYASD_FIELD(given, input, packed);
  PYASD_FIELD(given, input, hidden);
  PYASD_FIELD(given, input, hidden_stride);
  PYASD_FIELD(given, input, target);
  PYASD_FIELD(given, input, target_stride);
  PYASD_FIELD(given, input, windows);
  return input;
}

struct Head {
  pyasd::cuda::MixtureHead head{};
  int64_t packed_size;

  explicit Head(const py::kwargs& kwargs) {
    Arguments given(kwargs);
    PYASD_ARGUMENT(given, std::vector<int32_t>, prefix);
    if (prefix.size() > pyasd::cuda::kMaxGroups) throw std::invalid_argument("too many groups");
    head.groups = int32_t(prefix.size());
    for (std::size_t g = 0; g < prefix.size(); ++g) head.group[g].prefix = prefix[g];
    PYASD_FIELD(given, head, dims);
    PYASD_FIELD(given, head, components);
    PYASD_FIELD(given, head, hidden);
    PYASD_FIELD(given, head, log_scale_min);
    PYASD_ARGUMENT(given, bool, bfloat16);
    given.end();
    head.planes = bfloat16 ? 1 : 3;
    packed_size = pyasd::cuda::mixture_layout(head);
  }

  bool fits(int device, bool backward) const {
    const pyasd::CudaDeviceGuard guard(device);
    return guard.status == 0 && pyasd::cuda::mixture_fits(head, backward);
  }

  void pack(const py::kwargs& kwargs) const {
    Arguments given(kwargs);
    pyasd::cuda::MixturePackArgs args{};
    PYASD_FIELD(given, args, weight);
    PYASD_FIELD(given, args, bias);
    PYASD_FIELD(given, args, packed);
    const Queue queue = queue_of(given);
    given.end();
    on_device(queue, [&](void* stream) { return pyasd::cuda::mixture_pack(head, args, stream); });
  }

  // Groups that aren't wanted are left out, and their outputs as they are.
  void forward(const py::kwargs& kwargs) const {
    Arguments given(kwargs);
    pyasd::cuda::MixtureForwardArgs args{};
    args.input = input_of(given);
    PYASD_FIELD(given, args, out);
    PYASD_FIELD(given, args, per_dim);
    PYASD_FIELD(given, args, partial);
    pyasd::cuda::MixtureHead some = head;
    PYASD_FIELD(given, some, warpgroups);
    PYASD_ARGUMENT(given, std::vector<bool>, wanted);
    for (std::size_t g = 0; g < wanted.size(); ++g) some.group[g].wanted = wanted[g];
    const Queue queue = queue_of(given);
    given.end();
    on_device(queue, [&](void* stream) { return pyasd::cuda::mixture_forward(some, args, stream); });
  }

  void backward(const py::kwargs& kwargs) const {
    Arguments given(kwargs);
    pyasd::cuda::MixtureBackwardArgs args{};
    args.input = input_of(given);
    PYASD_FIELD(given, args, grad);
    PYASD_FIELD(given, args, per_dim);
    PYASD_FIELD(given, args, workspace);
    PYASD_FIELD(given, args, d_hidden);
    PYASD_FIELD(given, args, d_target);
    PYASD_FIELD(given, args, d_weight);
    PYASD_FIELD(given, args, d_bias);
    const Queue queue = queue_of(given);
    given.end();
    on_device(queue, [&](void* stream) { return pyasd::cuda::mixture_backward(head, args, stream); });
  }
};

struct Trunk {
  pyasd::cuda::Trunk trunk;

  // The layers' weights and biases are on the host.
  explicit Trunk(const py::kwargs& kwargs) {
    Arguments given(kwargs);
    std::vector<pyasd::cuda::TrunkLayer> layers;
    for (const auto& each : given.get<std::vector<py::dict>>(PYASD_NAME(layers))) {
      Arguments one(each);
      pyasd::cuda::TrunkLayer layer{};
      PYASD_FIELD(one, layer, inputs);
      PYASD_FIELD(one, layer, outputs);
      PYASD_FIELD(one, layer, weight);
      PYASD_FIELD(one, layer, bias);
      one.end();
      if (layer.outputs > pyasd::cuda::kTrunkWidth) throw std::invalid_argument("too many units");
      layers.push_back(layer);
    }
    if (layers.empty()) throw std::invalid_argument("no layers");
    PYASD_ARGUMENT(given, int, mels);
    PYASD_ARGUMENT(given, bool, bfloat16);
    given.end();
    trunk = pyasd::cuda::trunk_pack(layers, mels, bfloat16);
  }

  bool fits(int device) const {
    const pyasd::CudaDeviceGuard guard(device);
    return guard.status == 0 && pyasd::cuda::trunk_fits(trunk.shape);
  }

  void forward(const py::kwargs& kwargs) const {
    Arguments given(kwargs);
    pyasd::cuda::TrunkArgs args{};
    args.shape = trunk.shape;
    PYASD_FIELD(given, args, packed);
    PYASD_FIELD(given, args, log_mel);
    PYASD_FIELD(given, args, windows);
    PYASD_FIELD(given, args, band_mean);
    PYASD_FIELD(given, args, band_scale);
    PYASD_FIELD(given, args, z);
    PYASD_FIELD(given, args, hidden);
    const Queue queue = queue_of(given);
    given.end();
    on_device(queue, [&](void* stream) { return pyasd::cuda::trunk_forward(args, stream); });
  }
};

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() =
      "CUDA kernels. Arguments that are addresses come from tensor.data_ptr(); `stream` is a cudaStream_t. _cuda.pyi "
      "has "
      "their names.";
  m.attr("runtime_version") = pyasd::cuda_runtime_version();
  m.attr("max_groups") = pyasd::cuda::kMaxGroups;
  m.attr("max_trunk_width") = pyasd::cuda::kTrunkWidth;
  m.def(
      "device_count",
      [] {
        char reason[256];
        const int count = pyasd::cuda_device_count(reason);
        return py::make_tuple(count, py::str(reason));
      },
      "The number of devices, and why there are none where the runtime says so.");
  m.def(
      "device",
      [](int index) {
        pyasd::CudaDevice device;
        if (!pyasd::cuda_device(index, &device)) throw py::index_error("no such CUDA device");
        py::dict d;
        d["name"] = device.name;
        d["capability"] = py::make_tuple(device.major, device.minor);
        d["multiprocessors"] = device.multiprocessors;
        d["memory"] = device.memory;
        return d;
      },
      py::arg("index"), "Name, compute capability, multiprocessors and memory (bytes) of a device.");
  m.def(
      "loaded", [](int device) { on_device({device, nullptr}, [](void*) { return pyasd::cuda::mixture_loaded(); }); },
      py::arg("device"), "Raises where the kernels were not compiled for the device's architecture.");
  m.def("log_mel_supported", &pyasd::cuda::log_mel_supported, py::arg("n_fft"));
  m.def("log_mel", &log_mel);
  py::class_<Head>(m, "MixtureHead")
      .def(py::init<const py::kwargs&>())
      .def_readonly("packed_size", &Head::packed_size, "Bytes.")
      .def_property_readonly("units", [](const Head& h) { return pyasd::cuda::mixture_units(h.head); })
      .def("fits", &Head::fits, py::kw_only(), py::arg("device"), py::arg("backward"))
      .def("pack", &Head::pack)
      .def("forward", &Head::forward)
      .def(
          "backward_workspace",
          [](const Head& h, int64_t windows) { return pyasd::cuda::mixture_backward_workspace(h.head, windows); },
          py::arg("windows"), "Floats.")
      .def("backward", &Head::backward);
  py::class_<Trunk>(m, "Trunk")
      .def(py::init<const py::kwargs&>())
      .def_property_readonly(
          "packed", [](const Trunk& t) { return py::bytes(t.trunk.packed.data(), t.trunk.packed.size()); },
          "The weights as the kernel reads them, to be copied to the device.")
      .def("fits", &Trunk::fits, py::kw_only(), py::arg("device"))
      .def("forward", &Trunk::forward);
}
