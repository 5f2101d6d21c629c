// The devices of this machine, and whether they run what is compiled here.
#include <cstring>

#include "cuda/launch.h"
#include "optlayers/device.h"

namespace optl::cuda {

namespace {

__global__ void probe() {}

}  // namespace

const char* error_text(Error error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

Versions versions() {
  Versions out{};
  if (cudaRuntimeGetVersion(&out.runtime) != cudaSuccess) out.runtime = 0;
  if (cudaDriverGetVersion(&out.driver) != cudaSuccess) out.driver = 0;
  cudaGetLastError();
  return out;
}

Error device_count(int* count) {
  *count = 0;
  OPTL_CUDA_TRY(cudaGetDeviceCount(count));
  return 0;
}

Error describe(int device, Device* out) {
  cudaDeviceProp properties;
  OPTL_CUDA_TRY(cudaGetDeviceProperties(&properties, device));
  std::memcpy(out->name, properties.name, sizeof out->name);
  out->major = properties.major, out->minor = properties.minor, out->multiprocessors = properties.multiProcessorCount;
  out->shared_bytes = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
  const OnDevice guard(device);
  OPTL_CUDA_TRY(guard.error);
  cudaFuncAttributes attributes;
  out->runs = cudaFuncGetAttributes(&attributes, probe);
  if (out->runs != cudaSuccess) failed(static_cast<cudaError_t>(out->runs));
  return 0;
}

}  // namespace optl::cuda
