// pyasd._native: pointers in, the GIL released, errors raised. Shapes, dtypes and devices have been checked by ops.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "pyasd.h"

namespace py = pybind11;

namespace {

using Address = std::uintptr_t;

template <class T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

void check(int status) {
  if (status == pyasd::kOutOfMemory) throw std::bad_alloc();
  if (status != pyasd::kOk) throw std::runtime_error("this instruction set is not part of the build");
}

struct Plan {
  struct Destroy {
    void operator()(pyasd::LogMelPlan* plan) const { pyasd::log_mel_plan_destroy(plan); }
  };
  std::unique_ptr<pyasd::LogMelPlan, Destroy> plan;

  Plan(int n_fft, int hop_length, int n_mels, bool reflect, bool floor_add, float eps, Address window, Address starts,
       Address counts, Address weights) {
    const pyasd::LogMelShape shape{n_fft, hop_length, n_mels, reflect, floor_add, eps};
    plan.reset(pyasd::log_mel_plan_create(shape, pointer<const double>(window), pointer<const int32_t>(starts),
                                          pointer<const int32_t>(counts), pointer<const double>(weights)));
    if (!plan) throw std::bad_alloc();
  }
};

void log_mel(const Plan& plan, Address samples, bool is_int16, int64_t clip_stride, const std::vector<int64_t>& lengths,
             Address out, int isa, int threads) {
  const pyasd::LogMelArgs args{pointer<const void>(samples), is_int16,       int64_t(lengths.size()),
                               clip_stride,                  lengths.data(), pointer<float>(out)};
  py::gil_scoped_release released;
  check(pyasd::log_mel(plan.plan.get(), args, isa, threads));
}

struct Head {
  std::vector<int32_t> prefix;
  pyasd::MixtureShape shape;
  int isa;

  Head(int64_t dims, std::vector<int32_t> prefix_, int components, int hidden, float log_scale_min, bool bfloat16,
       int isa_)
      : prefix(std::move(prefix_)),
        shape{dims, int32_t(prefix.size()), components, hidden, prefix.data(), log_scale_min, bfloat16},
        isa(isa_) {}
  Head(const Head&) = delete;

  void pack(Address weight, Address bias, Address packed, int threads) const {
    py::gil_scoped_release released;
    check(pyasd::mixture_pack(shape, pointer<const float>(weight), pointer<const float>(bias), pointer<float>(packed), isa,
                              threads));
  }

  void forward(Address packed, Address hidden, int64_t hidden_stride, Address target, int64_t target_stride,
               int64_t windows, Address out, bool per_dim, int threads) const {
    const pyasd::MixtureForwardArgs args{pointer<const float>(packed), pointer<const float>(hidden),
                                         pointer<const float>(target), windows, hidden_stride, target_stride,
                                         pointer<float>(out), per_dim};
    py::gil_scoped_release released;
    check(pyasd::mixture_forward(shape, args, isa, threads));
  }

  void backward(Address packed, Address rows, int64_t rows_stride, Address grad, float uniform_grad, Address hidden,
                int64_t hidden_stride, Address target, int64_t target_stride, int64_t windows, bool per_dim, Address d_hidden,
                Address d_target, Address d_weight, Address d_bias, Address log_prob, int threads) const {
    const pyasd::MixtureBackwardArgs args{
        pointer<const float>(packed),   pointer<const float>(rows),
        rows_stride,                    pointer<const float>(grad),
        uniform_grad,                   pointer<const float>(hidden),
        pointer<const float>(target),   windows,
        hidden_stride,                  target_stride,
        per_dim,                        pointer<float>(d_hidden),
        pointer<float>(d_target),       pointer<float>(d_weight),
        pointer<float>(d_bias),         pointer<float>(log_prob)};
    py::gil_scoped_release released;
    check(pyasd::mixture_backward(shape, args, isa, threads));
  }
};

struct GroupMade {
  struct Destroy {
    void operator()(pyasd::Trunk* trunk) const { pyasd::trunk_destroy(trunk); }
  };
  std::unique_ptr<pyasd::Trunk, Destroy> trunk;

  // Each layer: inputs, outputs, and the addresses of weight and bias.
  GroupMade(const std::vector<std::tuple<int, int, Address, Address>>& layers, int frame, bool bfloat16, int isa) {
    std::vector<pyasd::DenseLayer> plain;
    for (const auto& [inputs, outputs, weight, bias] : layers) {
      plain.push_back({inputs, outputs, pointer<const float>(weight), pointer<const float>(bias)});
    }
    trunk.reset(pyasd::trunk_create(plain.data(), int32_t(plain.size()), frame, bfloat16, isa));
    if (!trunk) throw std::bad_alloc();
  }

  void forward(const Head& head, Address packed, Address log_mel, int64_t windows, int64_t mels, Address band_mean,
               Address inverse_scale, const std::vector<uint8_t>& wanted, Address out, bool per_dim, int threads) const {
    const pyasd::GroupMadeArgs args{trunk.get(),
                                    pointer<const float>(packed),
                                    pointer<const float>(log_mel),
                                    windows,
                                    mels,
                                    pointer<const float>(band_mean),
                                    pointer<const float>(inverse_scale),
                                    wanted.data(),
                                    pointer<float>(out),
                                    per_dim};
    py::gil_scoped_release released;
    check(pyasd::group_made_forward(head.shape, args, head.isa, threads));
  }
};

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "CPU kernels. Arguments that are addresses come from tensor.data_ptr().";
  m.def("isa_obstacle", &pyasd::isa_obstacle, py::arg("isa"));  // None where there is none
  m.def("probe_fma", &pyasd::probe_fma, py::arg("rounds"), py::arg("isa"));
  m.def("probe_pairs", &pyasd::probe_pairs, py::arg("rounds"), py::arg("isa"));
  m.def("probe_exp", &pyasd::probe_exp, py::arg("rounds"), py::arg("isa"));
  py::class_<Plan>(m, "LogMelPlan")
      .def(py::init<int, int, int, bool, bool, float, Address, Address, Address, Address>(), py::kw_only(),
           py::arg("n_fft"), py::arg("hop_length"), py::arg("n_mels"), py::arg("reflect"), py::arg("floor_add"),
           py::arg("eps"), py::arg("window"), py::arg("starts"), py::arg("counts"), py::arg("weights"))
      .def("__call__", &log_mel, py::kw_only(), py::arg("samples"), py::arg("is_int16"), py::arg("clip_stride"),
           py::arg("lengths"), py::arg("out"), py::arg("isa"), py::arg("threads"));
  py::class_<Head>(m, "MixtureHead")
      .def(py::init<int64_t, std::vector<int32_t>, int, int, float, bool, int>(), py::kw_only(), py::arg("dims"),
           py::arg("prefix"), py::arg("components"), py::arg("hidden"), py::arg("log_scale_min"), py::arg("bfloat16"),
           py::arg("isa"))
      .def_property_readonly("packed_size",
                             [](const Head& h) { return pyasd::mixture_packed_size(h.shape, h.isa); })
      .def("pack", &Head::pack, py::kw_only(), py::arg("weight"), py::arg("bias"), py::arg("packed"),
           py::arg("threads"))
      .def("forward", &Head::forward, py::kw_only(), py::arg("packed"), py::arg("hidden"), py::arg("hidden_stride"),
           py::arg("target"), py::arg("target_stride"), py::arg("windows"), py::arg("out"), py::arg("per_dim"),
           py::arg("threads"))
      .def("backward", &Head::backward, py::kw_only(), py::arg("packed"), py::arg("rows"), py::arg("rows_stride"),
           py::arg("grad"), py::arg("uniform_grad"), py::arg("hidden"), py::arg("hidden_stride"), py::arg("target"), py::arg("target_stride"),
           py::arg("windows"), py::arg("per_dim"), py::arg("d_hidden"), py::arg("d_target"), py::arg("d_weight"),
           py::arg("d_bias"), py::arg("log_prob"), py::arg("threads"));
  py::class_<GroupMade>(m, "GroupMade")
      .def(py::init<const std::vector<std::tuple<int, int, Address, Address>>&, int, bool, int>(), py::kw_only(),
           py::arg("layers"), py::arg("frame"), py::arg("bfloat16"), py::arg("isa"))
      .def("forward", &GroupMade::forward, py::kw_only(), py::arg("head"), py::arg("packed"), py::arg("log_mel"),
           py::arg("windows"), py::arg("mels"), py::arg("band_mean"), py::arg("inverse_scale"), py::arg("wanted"),
           py::arg("out"), py::arg("per_dim"), py::arg("threads"));
}
