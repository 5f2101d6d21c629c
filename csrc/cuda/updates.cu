// Optimizer steps of whole lists of tensors: a launch for every group of them that fits into a kernel's arguments.
#include <algorithm>

#include "cuda/launch.h"
#include "cuda/updates_block.h"

namespace optl::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 4096;  // what is beyond comes in turns

template <Product P, Second S, class T>
__global__ void __launch_bounds__(kThreads) moments_kernel(const __grid_constant__ MomentGroup<T> group) {
  moments_block<P, S>(CudaBlock{}, group);
}

template <Product P, Second S, class T>
Error launch_group(const MomentGroup<T>& group, cudaStream_t stream) {
  const int64_t blocks = std::min(group.chunk_of[group.count], kMostBlocks);
  if (blocks == 0) return 0;
  moments_kernel<P, S, T><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(group);
  OPTL_CUDA_TRY(cudaGetLastError());
  return 0;
}

template <Product P, class T>
Error launch_kind(Second second, const MomentGroup<T>& group, cudaStream_t stream) {
  switch (second) {
    case Second::kNone: return launch_group<P, Second::kNone>(group, stream);
    case Second::kSquare: return launch_group<P, Second::kSquare>(group, stream);
    case Second::kLargest: return launch_group<P, Second::kLargest>(group, stream);
    case Second::kCentered: return launch_group<P, Second::kCentered>(group, stream);
    case Second::kMaximum: return launch_group<P, Second::kMaximum>(group, stream);
  }
  return cudaErrorInvalidValue;
}

template <Product P, class T>
Error launch_all(Second second, const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors,
                 bool apply, int device, Stream stream) {
  const OnDevice guard(device);
  OPTL_CUDA_TRY(guard.error);
  MomentGroup<T> group{};
  group.numbers = numbers;
  group.apply = apply;
  for (int64_t done = 0; done < count;) {
    done += fill_group(&group, count - done, tensors + done);
    if (const Error error = launch_kind<P>(second, group, static_cast<cudaStream_t>(stream))) return error;
  }
  return 0;
}

}  // namespace

template <class T>
Error moments_step(Second second, const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors,
                   bool apply, int device, Stream stream) {
  return launch_all<Product::kStep>(second, numbers, count, tensors, apply, device, stream);
}

template <class T>
Error moments_pull(Second second, const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors,
                   int device, Stream stream) {
  return launch_all<Product::kPull>(second, numbers, count, tensors, false, device, stream);
}

template <class T>
Error moments_push(Second second, const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors,
                   int device, Stream stream) {
  return launch_all<Product::kPush>(second, numbers, count, tensors, false, device, stream);
}

#define OPTL_INSTANTIATE(T)                                                                                            \
  template Error moments_step(Second, const MomentNumbers<T>&, int64_t, const MomentArrays<T>*, bool, int, Stream);    \
  template Error moments_pull(Second, const MomentNumbers<T>&, int64_t, const MomentArrays<T>*, int, Stream);          \
  template Error moments_push(Second, const MomentNumbers<T>&, int64_t, const MomentArrays<T>*, int, Stream);
OPTL_INSTANTIATE(float)
OPTL_INSTANTIATE(double)

}  // namespace optl::cuda
