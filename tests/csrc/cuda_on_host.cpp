// pyasd._cuda of the kernels' own source, on the host: one "device", whose tensors are CPU tensors.
#include "cuda/devices.h"
#include "cuda/log_mel.cu"
#include "cuda/mixture.cu"
#include "cuda/mixture_backward.cu"
#include "cuda/trunk.cu"

namespace pyasd {

int cuda_device_count(char reason[256]) {
  reason[0] = '\0';
  return 1;
}
bool cuda_device(int, CudaDevice* device) {
  *device = {"host emulation", 8, 0, cuda::multiprocessors(), 0};
  return true;
}
int cuda_runtime_version() { return 0; }
const char* cuda_error_text(int) { return cuda::last_error(); }
CudaDeviceGuard::CudaDeviceGuard(int) : status(0) {}
CudaDeviceGuard::~CudaDeviceGuard() { (void)before_; }

}  // namespace pyasd
