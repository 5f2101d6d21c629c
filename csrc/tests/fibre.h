// A function with a stack of its own that can be left and entered again: a cooperative thread, switched in nanoseconds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__x86_64__)
/// Keeps the callee-saved registers on the stack and the stack in *save, and goes on where `load` was kept.
/// swapcontext does the same with two system calls.
extern "C" void optl_switch_stack(void** save, void* load);
#endif

namespace optl {

class Fibre {
 public:
  explicit Fibre(std::function<void()> body)
      : body_(std::move(body)), stack_(std::make_unique_for_overwrite<char[]>(kStack)) {
#if defined(__x86_64__)
    void** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack_.get()) + kStack) / 16 * 16);
    *--top = nullptr;  // in place of a return address: the stack is aligned as after a call
    *--top = reinterpret_cast<void*>(&Fibre::enter);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    own_ = top;
#else
    getcontext(&own_);
    own_.uc_stack.ss_sp = stack_.get(), own_.uc_stack.ss_size = kStack;
    makecontext(&own_, &Fibre::enter, 0);
#endif
  }
  Fibre(const Fibre&) = delete;

  bool done() const { return done_; }

  /// Runs the body until it suspends itself or ends.
  void resume() {
    current() = this;
    change(own_, other_, stack_.get(), kStack, &outside_fake_);
  }

  /// From within the body.
  void suspend() { change(other_, own_, outside_, outside_size_, done_ ? nullptr : &fake_); }

 private:
  static constexpr size_t kStack = 1 << 17;
#if defined(__x86_64__)
  using Context = void*;
#else
  using Context = ucontext_t;
#endif

  std::function<void()> body_;
  std::unique_ptr<char[]> stack_;
  Context own_{}, other_{};
  bool done_ = false;
  void *fake_ = nullptr, *outside_fake_ = nullptr;  // what AddressSanitizer keeps for a stack that is left
  const void* outside_ = nullptr;
  size_t outside_size_ = 0;

  static Fibre*& current() {
    static Fibre* fibre = nullptr;
    return fibre;
  }

  static void enter() {
    Fibre& me = *current();
    me.arrived(nullptr);
    me.body_();
    me.done_ = true;
    me.suspend();
  }

  /// Leave for `to`, keeping this place in `from`; come back some time later.
  void change(Context& to, Context& from, [[maybe_unused]] const void* stack, [[maybe_unused]] size_t size,
              [[maybe_unused]] void** fake) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(fake, stack, size);
#endif
#if defined(__x86_64__)
    optl_switch_stack(&from, to);
#else
    swapcontext(&from, &to);
#endif
    if (&from == &own_) arrived(fake_);
#if defined(__SANITIZE_ADDRESS__)
    else __sanitizer_finish_switch_fiber(outside_fake_, nullptr, nullptr);
#endif
  }

  void arrived([[maybe_unused]] void* fake) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, &outside_, &outside_size_);
#endif
  }
};

}  // namespace optl
