// The optimizer steps of cuda/kernels.h on the blocks that the host plays, for cuda/bind.cpp to be linked with.
#include "../device_updates.h"

#include "cuda/kernels.h"

namespace optl::cuda {

template <class T>
Error moments_step(Second second, const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors,
                   bool apply, int, Stream) {
  return device::moments_step(second, numbers, count, tensors, apply, 1), 0;
}

template <class T>
Error moments_pull(Second second, const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors, int,
                   Stream) {
  return device::moments_pull(second, numbers, count, tensors, 1), 0;
}

template <class T>
Error moments_push(Second second, const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors, int,
                   Stream) {
  return device::moments_push(second, numbers, count, tensors, 1), 0;
}

#define OPTL_INSTANTIATE(T)                                                                                         \
  template Error moments_step(Second, const MomentNumbers<T>&, int64_t, const MomentArrays<T>*, bool, int, Stream); \
  template Error moments_pull(Second, const MomentNumbers<T>&, int64_t, const MomentArrays<T>*, int, Stream);       \
  template Error moments_push(Second, const MomentNumbers<T>&, int64_t, const MomentArrays<T>*, int, Stream);
OPTL_INSTANTIATE(float)
OPTL_INSTANTIATE(double)

}  // namespace optl::cuda
