// Optimizer steps of whole lists of tensors, with their products with cotangents and tangents, in one pass over memory.
#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/packs.h"
#include "optlayers/updates.h"
#ifdef _OPENMP
#include <omp.h>
#endif

namespace optl::OPTL_ISA {

namespace {

using updates::Entry;
using updates::Next;

constexpr int64_t kChunk = 2048;   // entries worked on at once: what is not there is read from, or written to, the cache
constexpr int64_t kShare = 16384;  // entries that are worth a thread
constexpr int64_t kLine = 64;      // threads write to no common cache line, where arrays begin with one

template <class T>
alignas(64) constexpr T kZeros[kChunk] = {};

/// The arrays of one tensor from an entry on; what is null reads as zeros and writes to `unwanted`.
template <class T>
struct Columns {
  const T *entry[5], *change[5];
  T* out[5];

  Columns(const MomentArrays<T>& arrays, int64_t start, T* unwanted) {
    for (int k = 0; k < 5; ++k) {
      entry[k] = arrays.entry[k] ? arrays.entry[k] + start : kZeros<T>;
      change[k] = arrays.change[k] ? arrays.change[k] + start : kZeros<T>;
      out[k] = arrays.out[k] ? arrays.out[k] + start : unwanted;
    }
  }
  template <class Access>
  static Entry<Pack<T>> load(const T* const (&from)[5], int64_t i, const Access& access) {
    return {access.load(from[0] + i), access.load(from[1] + i), access.load(from[2] + i), access.load(from[3] + i),
            access.load(from[4] + i)};
  }
};

/// run(columns, length) for chunks that cover all tensors, in equal shares for all threads.
template <class T, class Run>
void for_chunks(int64_t count, const MomentArrays<T>* tensors, int threads, const Run& run) {
  int64_t total = 0;
  for (int64_t i = 0; i < count; ++i) total += tensors[i].size;
  const auto work = [&](int64_t begin, int64_t end) {
    alignas(64) T unwanted[kChunk];
    int64_t first = 0;
    for (int64_t i = 0; i < count && first < end; first += tensors[i++].size) {
      const int64_t last = std::min(end - first, tensors[i].size);
      for (int64_t at = std::max<int64_t>(begin - first, 0); at < last; at += kChunk) {
        run(Columns<T>(tensors[i], at, unwanted), std::min(kChunk, last - at));
      }
    }
  };
#ifdef _OPENMP
  const int team = static_cast<int>(std::min<int64_t>(threads, total / kShare));
  if (team > 1) {
#pragma omp parallel num_threads(team)
    {
      const int64_t share = (total / omp_get_num_threads() / kLine + 1) * kLine, begin = omp_get_thread_num() * share;
      work(begin, std::min(begin + share, total));
    }
    return;
  }
#else
  (void)threads;
#endif
  work(0, total);
}

/// The numbers in all lanes: a local variable of the loop, so that they stay in registers.
template <class T>
MomentNumbers<Pack<T>> everywhere(const MomentNumbers<T>& c) {
  const auto all = updates::Lane<Pack<T>>::all;
  return {all(c.gradient), all(c.decay), all(c.keep1), all(c.take1), all(c.keep2),   all(c.take2),
          all(c.alpha),    all(c.beta),  all(c.sigma), all(c.rho),   all(c.epsilon), all(c.shrink)};
}

template <Second S, class T, class Access>
void store(const Columns<T>& a, int64_t i, const Access& access, const Next<Pack<T>>& next) {
  access.store(a.out[0] + i, next.u);
  access.store(a.out[1] + i, next.m);
  if constexpr (S != Second::kNone) access.store(a.out[2] + i, next.v);
  if constexpr (S == Second::kLargest) access.store(a.out[3] + i, next.top);
}

template <Second S, class T>
void step_all(const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors, bool apply, int threads) {
  for_chunks<T>(count, tensors, threads, [&](const Columns<T>& a, int64_t length) {
    const auto c = everywhere(numbers);
    for_packs<T>(length, [&](int64_t i, const auto& access) {
      const Entry<Pack<T>> x = a.load(a.entry, i, access);
      Next<Pack<T>> next = updates::step<S>(c, x);
      if (apply) next.u = x.p + next.u;
      store<S>(a, i, access, next);
    });
  });
}

template <Second S, class T>
void pull_all(const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors, int threads) {
  for_chunks<T>(count, tensors, threads, [&](const Columns<T>& a, int64_t length) {
    const auto c = everywhere(numbers);
    for_packs<T>(length, [&](int64_t i, const auto& access) {
      const Next<Pack<T>> bar{access.load(a.change[0] + i), access.load(a.change[1] + i),
                              access.load(a.change[2] + i), access.load(a.change[3] + i)};
      const Entry<Pack<T>> of = updates::pull<S>(c, a.load(a.entry, i, access), bar);
      access.store(a.out[0] + i, of.g);
      access.store(a.out[1] + i, of.p);
      access.store(a.out[2] + i, of.m);
      if constexpr (S != Second::kNone) access.store(a.out[3] + i, of.v);
      if constexpr (S == Second::kLargest) access.store(a.out[4] + i, of.top);
    });
  });
}

template <Second S, class T>
void push_all(const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors, int threads) {
  for_chunks<T>(count, tensors, threads, [&](const Columns<T>& a, int64_t length) {
    const auto c = everywhere(numbers);
    for_packs<T>(length, [&](int64_t i, const auto& access) {
      store<S>(a, i, access, updates::push<S>(c, a.load(a.entry, i, access), a.load(a.change, i, access)));
    });
  });
}

/// run.operator()<S>() for the kind of second moment.
template <class Run>
void of_kind(Second second, const Run& run) {
  switch (second) {
    case Second::kNone: return run.template operator()<Second::kNone>();
    case Second::kSquare: return run.template operator()<Second::kSquare>();
    case Second::kLargest: return run.template operator()<Second::kLargest>();
    case Second::kCentered: return run.template operator()<Second::kCentered>();
    case Second::kMaximum: return run.template operator()<Second::kMaximum>();
  }
}

}  // namespace

template <class T>
void moments_step(Second second, const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors,
                  bool apply, int threads) {
  of_kind(second, [&]<Second S>() { step_all<S>(numbers, count, tensors, apply, threads); });
}

template <class T>
void moments_pull(Second second, const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors,
                  int threads) {
  of_kind(second, [&]<Second S>() { pull_all<S>(numbers, count, tensors, threads); });
}

template <class T>
void moments_push(Second second, const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors,
                  int threads) {
  of_kind(second, [&]<Second S>() { push_all<S>(numbers, count, tensors, threads); });
}

#define OPTL_INSTANTIATE(T)                                                                                    \
  template void moments_step(Second, const MomentNumbers<T>&, int64_t, const MomentArrays<T>*, bool, int);     \
  template void moments_pull(Second, const MomentNumbers<T>&, int64_t, const MomentArrays<T>*, int);           \
  template void moments_push(Second, const MomentNumbers<T>&, int64_t, const MomentArrays<T>*, int);
OPTL_INSTANTIATE(float)
OPTL_INSTANTIATE(double)

}  // namespace optl::OPTL_ISA
