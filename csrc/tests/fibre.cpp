// The switch between stacks that fibre.h declares.
#include "fibre.h"

#if defined(__x86_64__)
asm(R"(
.text
.globl optl_switch_stack
.type optl_switch_stack, @function
optl_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size optl_switch_stack, . - optl_switch_stack
)");
#endif
