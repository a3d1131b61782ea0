// pyasd._native: pointers in, the GIL released, errors raised. Shapes, dtypes and devices have been checked by
// pyasd.ops.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

#include "bindings/arguments.h"
#include "pyasd.h"

namespace py = pybind11;

namespace {

using pyasd::Arguments;

void check(int status) {
  if (status == pyasd::kOutOfMemory) throw std::bad_alloc();
  if (status != pyasd::kOk) throw std::runtime_error("this instruction set is not part of the build");
}

struct Plan {
  struct Destroy {
    void operator()(pyasd::LogMelPlan* plan) const { pyasd::log_mel_plan_destroy(plan); }
  };
  std::unique_ptr<pyasd::LogMelPlan, Destroy> plan;

  explicit Plan(const py::kwargs& kwargs) {
    Arguments given(kwargs);
    pyasd::LogMelShape shape{};
    PYASD_FIELD(given, shape, n_fft);
    PYASD_FIELD(given, shape, hop_length);
    PYASD_FIELD(given, shape, n_mels);
    PYASD_FIELD(given, shape, reflect);
    PYASD_FIELD(given, shape, floor_add);
    PYASD_FIELD(given, shape, eps);
    pyasd::LogMelWeights from{};
    PYASD_FIELD(given, from, window);
    PYASD_FIELD(given, from, starts);
    PYASD_FIELD(given, from, counts);
    PYASD_FIELD(given, from, weights);
    given.end();
    plan.reset(pyasd::log_mel_plan_create(shape, from));
    if (!plan) throw std::bad_alloc();
  }

  void run(const py::kwargs& kwargs) const {
    Arguments given(kwargs);
    pyasd::LogMelArgs args{};
    PYASD_FIELD(given, args, samples);
    PYASD_FIELD(given, args, is_int16);
    PYASD_FIELD(given, args, clip_stride);
    PYASD_ARGUMENT(given, std::vector<int64_t>, lengths);
    args.lengths = lengths.data();
    args.clips = int64_t(lengths.size());
    PYASD_FIELD(given, args, out);
    PYASD_ARGUMENT(given, int, isa);
    PYASD_ARGUMENT(given, int, threads);
    given.end();
    py::gil_scoped_release released;
    check(pyasd::log_mel(plan.get(), args, isa, threads));
  }
};

struct Head {
  std::vector<int32_t> prefix;
  pyasd::MixtureShape shape{};
  int isa;

  explicit Head(const py::kwargs& kwargs) {
    Arguments given(kwargs);
    PYASD_FIELD(given, *this, prefix);
    shape.prefix = prefix.data();
    shape.groups = int32_t(prefix.size());
    PYASD_FIELD(given, shape, dims);
    PYASD_FIELD(given, shape, components);
    PYASD_FIELD(given, shape, hidden);
    PYASD_FIELD(given, shape, log_scale_min);
    PYASD_FIELD(given, shape, bfloat16);
    PYASD_FIELD(given, *this, isa);
    given.end();
  }
  Head(const Head&) = delete;

  void pack(const py::kwargs& kwargs) const {
    Arguments given(kwargs);
    pyasd::MixturePackArgs args{};
    PYASD_FIELD(given, args, weight);
    PYASD_FIELD(given, args, bias);
    PYASD_FIELD(given, args, packed);
    PYASD_ARGUMENT(given, int, threads);
    given.end();
    py::gil_scoped_release released;
    check(pyasd::mixture_pack(shape, args, isa, threads));
  }

  void forward(const py::kwargs& kwargs) const {
    Arguments given(kwargs);
    pyasd::MixtureForwardArgs args{};
    PYASD_FIELD(given, args, packed);
    PYASD_FIELD(given, args, hidden);
    PYASD_FIELD(given, args, hidden_stride);
    PYASD_FIELD(given, args, target);
    PYASD_FIELD(given, args, target_stride);
    PYASD_FIELD(given, args, windows);
    PYASD_FIELD(given, args, out);
    PYASD_FIELD(given, args, per_dim);
    PYASD_ARGUMENT(given, int, threads);
    given.end();
    py::gil_scoped_release released;
    check(pyasd::mixture_forward(shape, args, isa, threads));
  }

  void backward(const py::kwargs& kwargs) const {
    Arguments given(kwargs);
    pyasd::MixtureBackwardArgs args{};
    PYASD_FIELD(given, args, packed);
    PYASD_FIELD(given, args, rows);
    PYASD_FIELD(given, args, rows_stride);
    PYASD_FIELD(given, args, grad);
    PYASD_FIELD(given, args, uniform_grad);
    PYASD_FIELD(given, args, hidden);
    PYASD_FIELD(given, args, hidden_stride);
    PYASD_FIELD(given, args, target);
    PYASD_FIELD(given, args, target_stride);
    PYASD_FIELD(given, args, windows);
    PYASD_FIELD(given, args, per_dim);
    PYASD_FIELD(given, args, d_hidden);
    PYASD_FIELD(given, args, d_target);
    PYASD_FIELD(given, args, d_weight);
    PYASD_FIELD(given, args, d_bias);
    PYASD_FIELD(given, args, log_prob);
    PYASD_ARGUMENT(given, int, threads);
    given.end();
    py::gil_scoped_release released;
    check(pyasd::mixture_backward(shape, args, isa, threads));
  }
};

struct GroupMade {
  struct Destroy {
    void operator()(pyasd::Trunk* trunk) const { pyasd::trunk_destroy(trunk); }
  };
  std::unique_ptr<pyasd::Trunk, Destroy> trunk;

  explicit GroupMade(const py::kwargs& kwargs) {
    Arguments given(kwargs);
    std::vector<pyasd::DenseLayer> layers;
    for (const auto& each : given.get<std::vector<py::dict>>(PYASD_NAME(layers))) {
      Arguments one(each);
      pyasd::DenseLayer layer{};
      PYASD_FIELD(one, layer, inputs);
      PYASD_FIELD(one, layer, outputs);
      PYASD_FIELD(one, layer, weight);
      PYASD_FIELD(one, layer, bias);
      one.end();
      layers.push_back(layer);
    }
    PYASD_ARGUMENT(given, int, frame);
    PYASD_ARGUMENT(given, bool, bfloat16);
    PYASD_ARGUMENT(given, int, isa);
    given.end();
    trunk.reset(pyasd::trunk_create(layers.data(), int32_t(layers.size()), frame, bfloat16, isa));
    if (!trunk) throw std::bad_alloc();
  }

  void forward(const Head& head, const py::kwargs& kwargs) const {
    Arguments given(kwargs);
    pyasd::GroupMadeArgs args{};
    args.trunk = trunk.get();
    PYASD_FIELD(given, args, packed);
    PYASD_FIELD(given, args, log_mel);
    PYASD_FIELD(given, args, windows);
    PYASD_FIELD(given, args, mels);
    PYASD_FIELD(given, args, band_mean);
    PYASD_FIELD(given, args, inverse_scale);
    PYASD_ARGUMENT(given, std::vector<uint8_t>, wanted);
    args.wanted = wanted.data();
    PYASD_FIELD(given, args, out);
    PYASD_FIELD(given, args, per_dim);
    PYASD_ARGUMENT(given, int, threads);
    given.end();
    py::gil_scoped_release released;
    check(pyasd::group_made_forward(head.shape, args, head.isa, threads));
  }
};

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "CPU kernels. Arguments that are addresses come from tensor.data_ptr(); _native.pyi has their names.";
  m.def("isa_obstacle", &pyasd::isa_obstacle, py::arg("isa"));  // None where there is none
  m.def("probe_fma", &pyasd::probe_fma, py::arg("rounds"), py::arg("isa"));
  m.def("probe_pairs", &pyasd::probe_pairs, py::arg("rounds"), py::arg("isa"));
  m.def("probe_exp", &pyasd::probe_exp, py::arg("rounds"), py::arg("isa"));
  py::class_<Plan>(m, "LogMelPlan").def(py::init<const py::kwargs&>()).def("__call__", &Plan::run);
  py::class_<Head>(m, "MixtureHead")
      .def(py::init<const py::kwargs&>())
      .def_property_readonly("packed_size", [](const Head& h) { return pyasd::mixture_packed_size(h.shape, h.isa); })
      .def("pack", &Head::pack)
      .def("forward", &Head::forward)
      .def("backward", &Head::backward);
  py::class_<GroupMade>(m, "GroupMade")
      .def(py::init<const py::kwargs&>())
      .def("forward", &GroupMade::forward, py::arg("head"));
}
