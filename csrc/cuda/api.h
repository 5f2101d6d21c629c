// What the CUDA module offers: plain functions of pointers, sizes, strides, workspace, device and stream.
#pragma once

#include "api.h"

namespace optl::cuda {

/// A cudaError_t; 0 is success. Functions return the first error of any call or launch; errors that occur while a kernel
/// runs show at a later call, as everywhere in CUDA.
using Error = int;

/// A cudaStream_t of the device, torch's current one say.
using Stream = void*;

const char* error_text(Error error);

/// What one device is, and whether it runs these kernels.
struct Device {
  char name[256];
  int major, minor, multiprocessors;
  int64_t shared_bytes;  // shared memory that a block may have
  Error runs;            // 0 if the kernels hold code for it
};

/// Versions as CUDA counts them, 13000 for 13.0: the runtime these kernels are linked with, and what the driver supports
/// (0 without a driver).
struct Versions {
  int runtime, driver;
};

Versions versions();
Error device_count(int* count);
Error describe(int device, Device* out);

}  // namespace optl::cuda
