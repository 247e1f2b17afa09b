// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "guestio/base/unique_fd.h"

namespace guestio::testing {

/// A program under test. Captures its output; the destructor kills it if it still runs.
class ChildProcess {
 public:
  /// `arguments[0]` is the program. The child inherits descriptor `inherited`, if given.
  explicit ChildProcess(const std::vector<std::string>& arguments, int inherited = -1);
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  ~ChildProcess();

  [[nodiscard]] pid_t pid() const noexcept { return pid_; }
  [[nodiscard]] bool is_running();
  void send_signal(int number) const;
  /// Waits for the exit status, or 128 + the terminating signal; nullopt after `limit`.
  /// GUESTIO_TEST_PATIENCE multiplies `limit` (testing/wait_until.h).
  std::optional<int> wait(std::chrono::milliseconds limit = std::chrono::seconds(60));
  /// Standard output and error so far.
  [[nodiscard]] std::string output() const;
  /// Waits for `text` in the output. Returns false after the exit of the program or after `limit`.
  [[nodiscard]] bool wait_for_output(const std::string& text,
                                     std::chrono::milliseconds limit = std::chrono::seconds(60));
  /// Number of the child's descriptors of the file `fd` of this process.
  [[nodiscard]] int descriptor_count(int fd) const;
  /// Waits for `count` of them: the child may close descriptors shortly after its reply.
  [[nodiscard]] bool wait_for_descriptor_count(int fd, int count);

 private:
  bool has_ended();

  UniqueFd output_;
  pid_t pid_ = -1;
  std::optional<int> status_;
};

}  // namespace guestio::testing
