// SPDX-License-Identifier: MIT
#include "guestio/base/thread.h"

#include <pthread.h>

#include <array>

namespace guestio {

BlockedSignals::BlockedSignals() noexcept {
  sigset_t signals;
  sigfillset(&signals);
  for (const int own :
       std::array{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGPROF, SIGSEGV, SIGSYS, SIGTRAP}) {
    sigdelset(&signals, own);
  }
  (void)::pthread_sigmask(SIG_BLOCK, &signals, &before_);
}

BlockedSignals::~BlockedSignals() { (void)::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

void set_thread_name(const std::string& name) noexcept {
  constexpr std::size_t kLongest = 15;
  (void)::pthread_setname_np(::pthread_self(), name.substr(0, kLongest).c_str());
}

}  // namespace guestio
