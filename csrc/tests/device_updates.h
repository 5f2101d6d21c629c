// The CUDA kernels of optimizer steps on the host, with the signatures of those of the CPU.
#pragma once

#include "cuda/updates_block.h"
#include "host_block.h"

namespace optl::device {

template <cuda::Product P, Second S, class T>
void run_groups(const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors, bool apply) {
  cuda::MomentGroup<T> group{};
  group.numbers = numbers;
  group.apply = apply;
  for (int64_t done = 0; done < count;) {
    done += cuda::fill_group(&group, count - done, tensors + done);
    HostGrid(3, 64, 0, 1).run([&](HostBlock& block) { cuda::moments_block<P, S>(block, group); });
  }
}

template <cuda::Product P, class T>
void run_kind(Second second, const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors, bool apply) {
  switch (second) {
    case Second::kNone: return run_groups<P, Second::kNone>(numbers, count, tensors, apply);
    case Second::kSquare: return run_groups<P, Second::kSquare>(numbers, count, tensors, apply);
    case Second::kLargest: return run_groups<P, Second::kLargest>(numbers, count, tensors, apply);
    case Second::kCentered: return run_groups<P, Second::kCentered>(numbers, count, tensors, apply);
    case Second::kMaximum: return run_groups<P, Second::kMaximum>(numbers, count, tensors, apply);
  }
}

template <class T>
void moments_step(Second second, const MomentNumbers<T>& c, int64_t count, const MomentArrays<T>* tensors, bool apply,
                  int) {
  run_kind<cuda::Product::kStep>(second, c, count, tensors, apply);
}

template <class T>
void moments_pull(Second second, const MomentNumbers<T>& c, int64_t count, const MomentArrays<T>* tensors, int) {
  run_kind<cuda::Product::kPull>(second, c, count, tensors, false);
}

template <class T>
void moments_push(Second second, const MomentNumbers<T>& c, int64_t count, const MomentArrays<T>* tensors, int) {
  run_kind<cuda::Product::kPush>(second, c, count, tensors, false);
}

}  // namespace optl::device
