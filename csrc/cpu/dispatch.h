// Calls a kernel as the widest instruction set that this processor runs provides it.
#pragma once

#include <cstring>

#include "api.h"

#ifdef OPTL_DISPATCH_AVX512
#define OPTL_IF_AVX512(...) __VA_ARGS__
#else
#define OPTL_IF_AVX512(...)
#endif
#ifdef OPTL_DISPATCH_AVX2
#define OPTL_IF_AVX2(...) __VA_ARGS__
#else
#define OPTL_IF_AVX2(...)
#endif

/// Calls `kernel` in the namespace that fits, and returns what it does.
#define OPTL_DISPATCH(kernel, ...)                                                         \
  [[maybe_unused]] static const char* const chosen = isa();                                \
  OPTL_IF_AVX512(if (!std::strcmp(chosen, "avx512")) return avx512::kernel(__VA_ARGS__);)  \
  OPTL_IF_AVX2(if (!std::strcmp(chosen, "avx2")) return avx2::kernel(__VA_ARGS__);)        \
  return portable::kernel(__VA_ARGS__)
