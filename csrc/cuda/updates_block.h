// What a block does for an optimizer step of a group of tensors: chunk after chunk, each entry by one thread.
#pragma once

#include "optlayers/updates.h"

namespace optl::cuda {

inline constexpr int kGroupSize = 24;          // tensors that fit, with their addresses, into the arguments of a kernel
inline constexpr int64_t kGroupChunk = 4096;   // entries that a block takes at a time

/// Tensors of one launch; chunk_of[i] is the first chunk of tensor i among those of all.
template <class T>
struct MomentGroup {
  MomentNumbers<T> numbers;
  MomentArrays<T> tensors[kGroupSize];
  int64_t chunk_of[kGroupSize + 1];
  int count;
  bool apply;
};

static_assert(sizeof(MomentGroup<double>) <= 4096, "arguments of a kernel");

/// The step itself, or cotangents or tangents of it.
enum class Product { kStep, kPull, kPush };

template <class T>
OPTL_HD inline updates::Entry<T> load_entry(const T* const (&from)[5], int64_t i) {
  const auto at = [&](int k) { return from[k] ? from[k][i] : T(0); };
  return {at(0), at(1), at(2), at(3), at(4)};
}

template <class T>
OPTL_HD inline void store_next(T* const (&to)[5], int64_t i, const updates::Next<T>& next) {
  if (to[0]) to[0][i] = next.u;
  if (to[1]) to[1][i] = next.m;
  if (to[2]) to[2][i] = next.v;
  if (to[3]) to[3][i] = next.top;
}

template <Product P, Second S, class T>
OPTL_HD inline void moments_entry(const MomentGroup<T>& group, const MomentArrays<T>& a, int64_t i) {
  const updates::Entry<T> x = load_entry(a.entry, i);
  if constexpr (P == Product::kStep) {
    updates::Next<T> next = updates::step<S>(group.numbers, x);
    if (group.apply) next.u = x.p + next.u;
    store_next(a.out, i, next);
  } else if constexpr (P == Product::kPush) {
    store_next(a.out, i, updates::push<S>(group.numbers, x, load_entry(a.change, i)));
  } else {
    const updates::Entry<T> bar = load_entry(a.change, i);
    const updates::Entry<T> of = updates::pull<S>(group.numbers, x, updates::Next<T>{bar.g, bar.p, bar.m, bar.v});
    const T all[5] = {of.g, of.p, of.m, of.v, of.top};
    for (int k = 0; k < 5; ++k) {
      if (a.out[k]) a.out[k][i] = all[k];
    }
  }
}

template <Product P, Second S, class Block, class T>
OPTL_DEVICE void moments_block(const Block& block, const MomentGroup<T>& group) {
  for (int64_t chunk = block.index(); chunk < group.chunk_of[group.count]; chunk += block.blocks()) {
    int tensor = 0;
    while (chunk >= group.chunk_of[tensor + 1]) ++tensor;
    const MomentArrays<T>& a = group.tensors[tensor];
    const int64_t start = (chunk - group.chunk_of[tensor]) * kGroupChunk;
    const int64_t end = start + kGroupChunk < a.size ? start + kGroupChunk : a.size;
    for (int64_t i = start + block.thread(); i < end; i += block.threads()) moments_entry<P, S>(group, a, i);
  }
}

/// Moves tensors from the front of a list into a group, and returns how many.
template <class T>
int64_t fill_group(MomentGroup<T>* group, int64_t count, const MomentArrays<T>* tensors) {
  group->count = static_cast<int>(count < kGroupSize ? count : kGroupSize);
  group->chunk_of[0] = 0;
  for (int i = 0; i < group->count; ++i) {
    group->tensors[i] = tensors[i];
    group->chunk_of[i + 1] = group->chunk_of[i] + (tensors[i].size + kGroupChunk - 1) / kGroupChunk;
  }
  return group->count;
}

}  // namespace optl::cuda
