// Calls a kernel as the widest instruction set that this processor runs provides it.
#pragma once

#include <cstring>

#include "api.h"

/// Calls `kernel` in the namespace that fits, and returns what it does.
#ifdef OPTL_DISPATCH_X86
#define OPTL_DISPATCH(kernel, ...)                                        \
  static const char* const chosen = isa();                                \
  if (!std::strcmp(chosen, "avx512")) return avx512::kernel(__VA_ARGS__); \
  if (!std::strcmp(chosen, "avx2")) return avx2::kernel(__VA_ARGS__);     \
  return portable::kernel(__VA_ARGS__)
#else
#define OPTL_DISPATCH(kernel, ...) return portable::kernel(__VA_ARGS__)
#endif
