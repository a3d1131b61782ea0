#include "cuda/devices.h"

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>

namespace pyasd {

int cuda_device_count(char reason[256]) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  reason[0] = '\0';
  if (error == cudaSuccess) return count;
  cudaGetLastError();  // the runtime remembers errors: this one is dealt with
  std::snprintf(reason, 256, "%s", cudaGetErrorString(error));
  return 0;
}

bool cuda_device(int index, CudaDevice* device) {
  cudaDeviceProp properties;
  if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  std::snprintf(device->name, sizeof device->name, "%s", properties.name);
  device->major = properties.major;
  device->minor = properties.minor;
  device->multiprocessors = properties.multiProcessorCount;
  device->memory = static_cast<long long>(properties.totalGlobalMem);
  return true;
}

int cuda_runtime_version() { return CUDART_VERSION; }

const char* cuda_error_text(int status) { return cudaGetErrorString(static_cast<cudaError_t>(status)); }

CudaDeviceGuard::CudaDeviceGuard(int device) {
  status = cudaGetDevice(&before_);
  if (status == cudaSuccess && device != before_) status = cudaSetDevice(device);
}

CudaDeviceGuard::~CudaDeviceGuard() {
  if (before_ >= 0) cudaSetDevice(before_);
}

}  // namespace pyasd
