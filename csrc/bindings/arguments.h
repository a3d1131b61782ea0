// Keyword arguments from Python, read by name into the fields of a struct. A field and its argument are one token, so
// that no field can get another one's value, and an argument that nobody reads is an error.
//
//   pyasd::MixturePackArgs args{};
//   Arguments given(kwargs);
//   PYASD_FIELD(given, args, weight);
//   PYASD_ARGUMENT(given, int, threads);
//   given.end();
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <type_traits>

namespace pyasd {

class Arguments {
 public:
  explicit Arguments(const pybind11::dict& given) : given_(given) {}

  // A pointer's argument is its address, from tensor.data_ptr(); 0 is null.
  template <class T>
  T get(PyObject* name) {
    PyObject* const value = PyDict_GetItemWithError(given_.ptr(), name);
    if (value == nullptr) throw pybind11::type_error("missing argument: " + text(name));
    ++read_;
    try {
      if constexpr (std::is_pointer_v<T>) {
        return reinterpret_cast<T>(pybind11::cast<std::uintptr_t>(pybind11::handle(value)));
      } else {
        return pybind11::cast<T>(pybind11::handle(value));
      }
    } catch (const pybind11::cast_error&) {
      throw pybind11::type_error("argument " + text(name) + " has another type");
    }
  }

  template <class T>
  void read(PyObject* name, T& field) {
    field = get<T>(name);
  }

  // Raises where an argument was given that wasn't read.
  void end() const {
    if (read_ != given_.size()) {
      throw pybind11::type_error("unknown argument among " + std::string(pybind11::str(given_.attr("keys")())));
    }
  }

 private:
  static std::string text(PyObject* name) { return std::string(pybind11::str(pybind11::handle(name))); }

  const pybind11::dict& given_;
  std::size_t read_ = 0;
};

}  // namespace pyasd

// The name as Python has it, made once.
#define PYASD_NAME(name)                                                 \
  ([]() -> PyObject* {                                                   \
    static PyObject* const interned = PyUnicode_InternFromString(#name); \
    return interned;                                                     \
  }())
// object.name = the argument called `name`
#define PYASD_FIELD(arguments, object, name) (arguments).read(PYASD_NAME(name), (object).name)
// const type name = the argument called `name`
#define PYASD_ARGUMENT(arguments, type, name) const auto name = (arguments).get<type>(PYASD_NAME(name))
