// What the CUDA module offers: plain functions of pointers, sizes, strides, workspace, device and stream.
#pragma once

#include "optlayers/batch.h"
#include "optlayers/moments.h"

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

/// Doubles of workspace that qp_solve and qp_backward need on a device.
template <class T>
Error qp_workspace(const QpSizes& sizes, int device, int64_t* doubles);

/// Solve a batch of programs, as qp_solve of api.h does, with the same statuses; all pointers are the device's, the batch
/// is not empty, and T is float or double, while the iteration runs in double. Does not allocate and waits for nothing.
template <class T>
Error qp_solve(const QpSizes& sizes, const QpProblem<T>& problem, double eps, int64_t max_steps,
               const QpResult<T>& result, double* workspace, int device, Stream stream);

/// Solve a batch of active-set systems, and form the gradients that are not null, as qp_backward of api.h does. Where the
/// relative residual is above `tolerance` the answer is the least-squares one of least norm; where the data that count are
/// not finite it is NaN. So the host need not look at `error`. Does not allocate and waits for nothing.
template <class T>
Error qp_backward(const QpSizes& sizes, const QpBackward<T>& in, double tolerance, const QpBackwardResult<T>& result,
                  double* workspace, int device, Stream stream);

/// The step of `count` tensors, as moments_step of api.h; the arrays are the device's, the list of them is the host's and
/// may go after the call. Does not allocate and waits for nothing.
template <class T>
Error moments_step(Second second, const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors,
                   bool apply, int device, Stream stream);

/// Its cotangents, as moments_pull of api.h.
template <class T>
Error moments_pull(Second second, const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors,
                   int device, Stream stream);

/// Its tangents, as moments_push of api.h.
template <class T>
Error moments_push(Second second, const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors,
                   int device, Stream stream);

}  // namespace optl::cuda
