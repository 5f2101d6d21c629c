// What every launch needs: the right device, and its errors told.
#pragma once

#include <cuda_runtime.h>

#include "cuda/kernels.h"

#define OPTL_CUDA_TRY(call)                                      \
  do {                                                           \
    const cudaError_t optl_error = (call);                       \
    if (optl_error != cudaSuccess) return optl::cuda::failed(optl_error); \
  } while (false)

namespace optl::cuda {

/// The error to return. It is forgotten here, so that the next call does not report it again.
inline Error failed(cudaError_t error) {
  cudaGetLastError();
  return error;
}

/// Makes a device the current one of this thread for a while.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    error = cudaGetDevice(&before_);
    if (error == cudaSuccess && before_ != device) {
      error = cudaSetDevice(device);
      changed_ = error == cudaSuccess;
    }
  }
  OnDevice(const OnDevice&) = delete;
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  cudaError_t error;

 private:
  int before_ = 0;
  bool changed_ = false;
};

}  // namespace optl::cuda
