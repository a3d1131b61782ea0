// CUDA devices, for dispatch and for `pyasd doctor`.
#pragma once

namespace pyasd {

struct CudaDevice {
  char name[256];
  int major, minor;
  int multiprocessors;
  long long memory;  // bytes
};

// 0 devices, not an error, on a machine without a GPU or with a driver too old for the runtime: `reason` then says
// why (at most 256 bytes), else it is empty.
int cuda_device_count(char reason[256]);
bool cuda_device(int index, CudaDevice* device);
int cuda_runtime_version();  // 1000 * major + 10 * minor of the CUDA runtime built in
const char* cuda_error_text(int status);

// Makes a device current for as long as this lives; `status` is a cudaError_t.
class CudaDeviceGuard {
 public:
  explicit CudaDeviceGuard(int device);
  CudaDeviceGuard(const CudaDeviceGuard&) = delete;
  ~CudaDeviceGuard();
  int status;

 private:
  int before_ = -1;
};

}  // namespace pyasd
