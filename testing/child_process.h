// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "guestio/base/unique_fd.h"

namespace guestio::testing {

/// A program under test: started with its output captured, killed at the end if it still runs.
class ChildProcess {
 public:
  /// `arguments[0]` is the program. `inherited` is handed down under its own number, if given.
  explicit ChildProcess(const std::vector<std::string>& arguments, int inherited = -1);
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  ~ChildProcess();

  [[nodiscard]] pid_t pid() const noexcept { return pid_; }
  [[nodiscard]] bool is_running();
  void send_signal(int number) const;
  /// The exit status, 128 + the signal that ended it, or nothing when it still runs after `limit`.
  /// `limit` is times GUESTIO_TEST_PATIENCE (testing/wait_until.h).
  std::optional<int> wait(std::chrono::milliseconds limit = std::chrono::seconds(60));
  /// Standard output and error so far.
  [[nodiscard]] std::string output() const;
  /// Waits until the output holds `text`; false when it ends or `limit` passes first.
  [[nodiscard]] bool wait_for_output(const std::string& text,
                                     std::chrono::milliseconds limit = std::chrono::seconds(60));
  /// How many of its descriptors are of the file that `fd` is here.
  [[nodiscard]] int descriptor_count(int fd) const;
  /// Waits until it has `count` of them: closing them may take it a moment after its answer.
  [[nodiscard]] bool wait_for_descriptor_count(int fd, int count);

 private:
  bool has_ended();

  UniqueFd output_;
  pid_t pid_ = -1;
  std::optional<int> status_;
};

}  // namespace guestio::testing
