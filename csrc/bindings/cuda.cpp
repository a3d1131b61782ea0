// pyasd._cuda: what CUDA devices there are.
#include <pybind11/pybind11.h>

#include <stdexcept>

#include "cuda/devices.h"

namespace py = pybind11;

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "CUDA devices as the runtime built into this extension sees them.";
  m.attr("runtime_version") = pyasd::cuda_runtime_version();
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
}
