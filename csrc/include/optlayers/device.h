// What device code is written with: marks for functions, and the view that a thread has of its block.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define OPTL_HD __host__ __device__
#define OPTL_DEVICE __device__
#define OPTL_DEVICE_CALL __device__ __noinline__  // called from many places: keeps the code, and compile times, small
#define OPTL_DEVICE_UNROLL _Pragma("unroll")  // of loops over arrays that are to be registers
#else
#define OPTL_HD
#define OPTL_DEVICE
#define OPTL_DEVICE_CALL
#define OPTL_DEVICE_UNROLL
#endif

namespace optl {

inline constexpr int kWarp = 32;

// Kernels are function templates on a Block, so that one source runs on the GPU, as a CudaBlock, and in the tests on the
// host, as a HostBlock (csrc/tests/host_block.h), which plays the threads of a block in random order from barrier to
// barrier. A Block is the view of one thread:
//
//   index(), blocks()     this block, and how many there are
//   thread(), threads()   this thread, and how many are in a block, a multiple of kWarp
//   shared()              the block's dynamic shared memory
//   sync()                a barrier of the block: what was written before it is seen after it
//   sync_warp()           the same for the warp
//   sum(v), largest(v), all(v), any(v)
//                         over the block, the same bits for every thread; barriers of the block as well.
//                         largest starts from 0 and keeps a NaN
//   sum_lanes(v, width), largest_lanes(v, width)
//                         the same over each aligned group of `width` threads, a power of two up to kWarp; barriers of
//                         the warp
//   ballot(v)             bit l says whether v holds in lane l of the warp; a barrier of the warp
//   take(counter)         the next number of a counter in global memory, the same for the whole block; a barrier
//
// Every thread that a barrier belongs to has to come to it.

struct Plus {
  OPTL_HD double operator()(double a, double b) const { return a + b; }
};

struct Larger {
  OPTL_HD double operator()(double a, double b) const { return a > b || a != a ? a : b; }
};

}  // namespace optl

#ifdef __CUDACC__
namespace optl {

class CudaBlock {
 public:
  __device__ int64_t index() const { return blockIdx.x; }
  __device__ int64_t blocks() const { return gridDim.x; }
  __device__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ int threads() const { return static_cast<int>(blockDim.x); }
  __device__ double* shared() const {
    extern __shared__ double memory[];
    return memory;
  }

  __device__ void sync() const { __syncthreads(); }
  __device__ void sync_warp() const { __syncwarp(); }

  __device__ double sum(double v) { return across(v, Plus{}); }
  __device__ double largest(double v) { return across(v, Larger{}); }
  __device__ bool all(bool v) const { return __syncthreads_and(v); }
  __device__ bool any(bool v) const { return __syncthreads_or(v); }

  __device__ double sum_lanes(double v, int width) const { return butterfly(v, width, Plus{}); }
  __device__ double largest_lanes(double v, int width) const { return butterfly(v, width, Larger{}); }
  __device__ uint32_t ballot(bool v) const {
    __syncwarp();
    return __ballot_sync(kAll, v);
  }

  __device__ int64_t take(int64_t* counter) const {
    __shared__ int64_t taken;
    __syncthreads();  // all have read what was taken last
    if (threadIdx.x == 0) {
      taken = static_cast<int64_t>(atomicAdd(reinterpret_cast<unsigned long long*>(counter), 1ULL));
    }
    __syncthreads();
    return taken;
  }

 private:
  static constexpr uint32_t kAll = 0xffffffffu;
  int turn_ = 0;  // two sets of slots in turn: nobody writes to one that another thread still reads

  /// Leaves every lane of a group with the same bits.
  template <class Combine>
  static __device__ double butterfly(double v, int width, const Combine& combine) {
    __syncwarp();
    for (int apart = width / 2; apart > 0; apart /= 2) v = combine(v, __shfl_xor_sync(kAll, v, apart));
    return v;
  }

  /// Over the warp, then over the warps.
  template <class Combine>
  __device__ double across(double v, const Combine& combine) {
    __shared__ double slots[2][kWarp];
    v = butterfly(v, kWarp, combine);
    if (blockDim.x == kWarp) return v;
    if (threadIdx.x % kWarp == 0) slots[turn_][threadIdx.x / kWarp] = v;
    __syncthreads();
    v = slots[turn_][0];
    for (unsigned w = 1; w < blockDim.x / kWarp; ++w) v = combine(v, slots[turn_][w]);
    turn_ ^= 1;
    return v;
  }
};

}  // namespace optl
#endif
