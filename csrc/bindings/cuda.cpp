// pyasd._cuda: pointers in, the GIL released, errors raised. Shapes, dtypes and devices have been checked by ops.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "cuda/devices.h"
#include "cuda/log_mel.h"
#include "cuda/mixture.h"
#include "cuda/trunk.h"

namespace py = pybind11;

namespace {

using Address = std::uintptr_t;

template <class T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

// Runs enqueue(stream) with the device current, and raises what went wrong.
template <class Enqueue>
void on_device(int device, Address stream, const Enqueue& enqueue) {
  int status;
  {
    py::gil_scoped_release released;
    const pyasd::CudaDeviceGuard guard(device);
    status = guard.status != 0 ? guard.status : enqueue(pointer<void>(stream));
  }
  if (status != 0) throw std::runtime_error(std::string("CUDA: ") + pyasd::cuda_error_text(status));
}

void log_mel(int n_fft, int hop_length, int n_mels, bool reflect, bool floor_add, float eps, Address window,
             Address twiddle, Address band_start, Address band_count, Address band_offset, Address band_weights,
             Address samples, bool is_int16, int64_t clips, int64_t clip_stride, int64_t length, Address lengths,
             Address first, int64_t frames, Address out, int device, Address stream) {
  const pyasd::cuda::LogMelArgs args{n_fft,
                                     hop_length,
                                     n_mels,
                                     reflect,
                                     floor_add,
                                     eps,
                                     pointer<const float>(window),
                                     pointer<const float>(twiddle),
                                     pointer<const int32_t>(band_start),
                                     pointer<const int32_t>(band_count),
                                     pointer<const int32_t>(band_offset),
                                     pointer<const float>(band_weights),
                                     pointer<const void>(samples),
                                     is_int16,
                                     clips,
                                     clip_stride,
                                     length,
                                     pointer<const int64_t>(lengths),
                                     pointer<const int64_t>(first),
                                     frames,
                                     pointer<float>(out)};
  on_device(device, stream, [&](void* s) { return pyasd::cuda::log_mel(args, s); });
}

struct Head {
  pyasd::cuda::MixtureHead head{};
  int64_t packed_size;

  Head(int64_t dims, const std::vector<int32_t>& prefix, int components, int hidden, float log_scale_min,
       bool bfloat16) {
    if (prefix.size() > pyasd::cuda::kMaxGroups) throw std::invalid_argument("too many groups");
    head.dims = dims;
    head.groups = int32_t(prefix.size());
    head.components = components;
    head.hidden = hidden;
    head.planes = bfloat16 ? 1 : 3;
    head.log_scale_min = log_scale_min;
    for (std::size_t g = 0; g < prefix.size(); ++g) head.group[g].prefix = prefix[g];
    packed_size = pyasd::cuda::mixture_layout(head);
  }

  bool fits(int device, bool backward) const {
    const pyasd::CudaDeviceGuard guard(device);
    return guard.status == 0 && pyasd::cuda::mixture_fits(head, backward);
  }

  void pack(Address weight, Address bias, Address packed, int device, Address stream) const {
    on_device(device, stream, [&](void* s) {
      return pyasd::cuda::mixture_pack(head, pointer<const float>(weight), pointer<const float>(bias),
                                       pointer<char>(packed), s);
    });
  }

  // Groups that aren't wanted are left out, and their outputs as they are.
  void forward(Address packed, Address hidden, int64_t hidden_stride, Address target, int64_t target_stride,
               int64_t windows, const std::vector<bool>& wanted, Address out, bool per_dim, Address partial,
               bool warpgroups, int device, Address stream) const {
    const pyasd::cuda::MixtureInput input{pointer<const char>(packed),
                                          pointer<const float>(hidden),
                                          pointer<const float>(target),
                                          windows,
                                          hidden_stride,
                                          target_stride};
    pyasd::cuda::MixtureHead some = head;
    some.warpgroups = warpgroups;
    for (std::size_t g = 0; g < wanted.size(); ++g) some.group[g].wanted = wanted[g];
    on_device(device, stream, [&](void* s) {
      return pyasd::cuda::mixture_forward(some, input, pointer<float>(out), per_dim, pointer<float>(partial), s);
    });
  }

  void backward(Address packed, Address grad, Address hidden, int64_t hidden_stride, Address target,
                int64_t target_stride, int64_t windows, bool per_dim, Address workspace, Address d_hidden,
                Address d_target, Address d_weight, Address d_bias, int device, Address stream) const {
    const pyasd::cuda::MixtureInput input{pointer<const char>(packed),
                                          pointer<const float>(hidden),
                                          pointer<const float>(target),
                                          windows,
                                          hidden_stride,
                                          target_stride};
    const pyasd::cuda::MixtureGradients out{pointer<float>(d_hidden), pointer<float>(d_target),
                                            pointer<float>(d_weight), pointer<float>(d_bias)};
    on_device(device, stream, [&](void* s) {
      return pyasd::cuda::mixture_backward(head, input, pointer<const float>(grad), per_dim, pointer<float>(workspace),
                                           out, s);
    });
  }
};

struct Trunk {
  pyasd::cuda::Trunk trunk;

  // Each layer: inputs, outputs, and the addresses of weight and bias, on the host.
  Trunk(const std::vector<std::tuple<int, int, Address, Address>>& layers, int mels, bool bfloat16) {
    std::vector<pyasd::cuda::TrunkLayer> plain;
    for (const auto& [inputs, outputs, weight, bias] : layers) {
      if (outputs > pyasd::cuda::kTrunkWidth) throw std::invalid_argument("too many units");
      plain.push_back({inputs, outputs, pointer<const float>(weight), pointer<const float>(bias)});
    }
    if (plain.empty()) throw std::invalid_argument("no layers");
    trunk = pyasd::cuda::trunk_pack(plain, mels, bfloat16);
  }

  bool fits(int device) const {
    const pyasd::CudaDeviceGuard guard(device);
    return guard.status == 0 && pyasd::cuda::trunk_fits(trunk.shape);
  }

  void forward(Address packed, Address log_mel, int64_t windows, Address band_mean, Address band_scale, Address z,
               Address hidden, int device, Address stream) const {
    const pyasd::cuda::TrunkArgs args{
        trunk.shape,       pointer<const char>(packed),     pointer<const float>(log_mel),
        windows,           pointer<const float>(band_mean), pointer<const float>(band_scale),
        pointer<float>(z), pointer<float>(hidden)};
    on_device(device, stream, [&](void* s) { return pyasd::cuda::trunk_forward(args, s); });
  }
};

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "CUDA kernels. Arguments that are addresses come from tensor.data_ptr(); `stream` is a cudaStream_t.";
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
      "loaded", [](int device) { on_device(device, 0, [](void*) { return pyasd::cuda::mixture_loaded(); }); },
      py::arg("device"), "Raises where the kernels were not compiled for the device's architecture.");
  m.def("log_mel_supported", &pyasd::cuda::log_mel_supported, py::arg("n_fft"));
  m.def("log_mel", &log_mel, py::kw_only(), py::arg("n_fft"), py::arg("hop_length"), py::arg("n_mels"),
        py::arg("reflect"), py::arg("floor_add"), py::arg("eps"), py::arg("window"), py::arg("twiddle"),
        py::arg("band_start"), py::arg("band_count"), py::arg("band_offset"), py::arg("band_weights"),
        py::arg("samples"), py::arg("is_int16"), py::arg("clips"), py::arg("clip_stride"), py::arg("length"),
        py::arg("lengths"), py::arg("first"), py::arg("frames"), py::arg("out"), py::arg("device"), py::arg("stream"));
  py::class_<Head>(m, "MixtureHead")
      .def(py::init<int64_t, const std::vector<int32_t>&, int, int, float, bool>(), py::kw_only(), py::arg("dims"),
           py::arg("prefix"), py::arg("components"), py::arg("hidden"), py::arg("log_scale_min"), py::arg("bfloat16"))
      .def_readonly("packed_size", &Head::packed_size, "Bytes.")
      .def_property_readonly("units", [](const Head& h) { return pyasd::cuda::mixture_units(h.head); })
      .def("fits", &Head::fits, py::kw_only(), py::arg("device"), py::arg("backward"))
      .def("pack", &Head::pack, py::kw_only(), py::arg("weight"), py::arg("bias"), py::arg("packed"), py::arg("device"),
           py::arg("stream"))
      .def("forward", &Head::forward, py::kw_only(), py::arg("packed"), py::arg("hidden"), py::arg("hidden_stride"),
           py::arg("target"), py::arg("target_stride"), py::arg("windows"), py::arg("wanted"), py::arg("out"),
           py::arg("per_dim"), py::arg("partial"), py::arg("warpgroups"), py::arg("device"), py::arg("stream"))
      .def(
          "backward_workspace",
          [](const Head& h, int64_t windows) { return pyasd::cuda::mixture_backward_workspace(h.head, windows); },
          py::arg("windows"), "Floats.")
      .def("backward", &Head::backward, py::kw_only(), py::arg("packed"), py::arg("grad"), py::arg("hidden"),
           py::arg("hidden_stride"), py::arg("target"), py::arg("target_stride"), py::arg("windows"),
           py::arg("per_dim"), py::arg("workspace"), py::arg("d_hidden"), py::arg("d_target"), py::arg("d_weight"),
           py::arg("d_bias"), py::arg("device"), py::arg("stream"));
  py::class_<Trunk>(m, "Trunk")
      .def(py::init<const std::vector<std::tuple<int, int, Address, Address>>&, int, bool>(), py::kw_only(),
           py::arg("layers"), py::arg("mels"), py::arg("bfloat16"))
      .def_property_readonly(
          "packed", [](const Trunk& t) { return py::bytes(t.trunk.packed.data(), t.trunk.packed.size()); },
          "The weights as the kernel reads them, to be copied to the device.")
      .def("fits", &Trunk::fits, py::kw_only(), py::arg("device"))
      .def("forward", &Trunk::forward, py::kw_only(), py::arg("packed"), py::arg("log_mel"), py::arg("windows"),
           py::arg("band_mean"), py::arg("band_scale"), py::arg("z"), py::arg("hidden"), py::arg("device"),
           py::arg("stream"));
}
