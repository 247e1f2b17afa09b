// SPDX-License-Identifier: MIT
#pragma once

#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "testing/child_process.h"
#include "testing/temporary.h"
#include "testing/wait_until.h"

namespace guestio::testing {

/// A real NBD server on a Unix socket in a folder of its own, with an image of 4 MiB.
class NbdServer {
 public:
  static constexpr std::uint64_t kBytes = std::uint64_t{4} << 20;

  /// The argument "IMAGE" stands for the image. Null if the program is not installed.
  static std::unique_ptr<NbdServer> nbdkit(std::vector<std::string> arguments) {
    std::unique_ptr<NbdServer> self(new NbdServer());
    std::vector<std::string> words{
        "/usr/bin/nbdkit", "-f",        "--exit-with-parent",     "--unix",
        self->path(),      "--pidfile", self->folder_.file("pid")};
    self->ready_file_ = self->folder_.file("pid");
    for (std::string& argument : arguments) {
      words.push_back(argument == "IMAGE" ? self->image() : std::move(argument));
    }
    return start_first(std::move(self), std::move(words));
  }
  static std::unique_ptr<NbdServer> nbdkit_at_port(const std::string& port,
                                                   std::vector<std::string> arguments) {
    std::unique_ptr<NbdServer> self(new NbdServer());
    self->ready_file_ = self->folder_.file("pid");
    std::vector<std::string> words{
        "/usr/bin/nbdkit", "-f",        "--exit-with-parent", "--ipaddr=127.0.0.1",
        "--port=" + port,  "--pidfile", self->ready_file_};
    for (std::string& argument : arguments) words.push_back(std::move(argument));
    return start_first(std::move(self), std::move(words));
  }
  static std::unique_ptr<NbdServer> qemu_nbd(std::vector<std::string> more = {"--shared=8"}) {
    std::unique_ptr<NbdServer> self(new NbdServer());
    self->ready_file_ = self->path();
    std::vector<std::string> words{"/usr/bin/qemu-nbd",
                                   "--persistent",
                                   "--format=raw",
                                   "--discard=unmap",
                                   "--socket=" + self->path(),
                                   "--pid-file=" + self->folder_.file("pid")};
    self->ready_file_ = self->folder_.file("pid");
    for (std::string& argument : more) words.push_back(std::move(argument));
    words.push_back(self->image());
    return start_first(std::move(self), std::move(words));
  }

  [[nodiscard]] std::string path() const { return folder_.file("s"); }
  [[nodiscard]] const std::string& image() const noexcept { return image_; }
  [[nodiscard]] const TemporaryDirectory& folder() const noexcept { return folder_; }
  [[nodiscard]] std::string uri(const std::string& name = "") const {
    return "nbd+unix:///" + name + "?socket=" + path();
  }
  [[nodiscard]] ChildProcess& process() noexcept { return *process_; }

  /// Returns whether all threads have stopped, until resume().
  [[nodiscard]] bool pause() {
    process_->send_signal(SIGSTOP);
    return wait_until([this] { return has_stopped(); });
  }
  void resume() { process_->send_signal(SIGCONT); }
  void stop(int signal) {
    process_->send_signal(signal);
    (void)process_->wait();
    process_.reset();
    std::filesystem::remove(path());
    std::filesystem::remove(ready_file_);
  }
  /// Starts it anew under a shell that starts it again whenever it ends. Returns whether it
  /// listens. After that, process() is the shell.
  [[nodiscard]] bool supervise() {
    stop(SIGKILL);
    std::vector<std::string> words = {"/bin/sh", "-c", "while :; do rm -f \"$0\"; \"$@\"; done",
                                      path()};
    words.insert(words.end(), words_.begin(), words_.end());
    return start(words);
  }
  /// Returns whether it listens.
  [[nodiscard]] bool start() { return start(words_); }
  [[nodiscard]] bool start(const std::vector<std::string>& words) {
    words_ = words;
    process_ = std::make_unique<ChildProcess>(words_);
    return wait_until([this] {
             std::error_code ignored;
             const bool is_ready = std::filesystem::exists(ready_file_, ignored) &&
                                   std::filesystem::file_size(ready_file_, ignored) != 0;
             return is_ready || !process_->is_running();
           }) &&
           process_->is_running();
  }
  [[nodiscard]] const std::vector<std::string>& words() const noexcept { return words_; }

 private:
  NbdServer() = default;

  [[nodiscard]] bool has_stopped() const {
    const std::string tasks = "/proc/" + std::to_string(process_->pid()) + "/task";
    for (const auto& task : std::filesystem::directory_iterator(tasks)) {
      std::ifstream file(task.path() / "stat");
      std::string line;
      std::getline(file, line);
      // The state follows the name in parentheses.
      if (line.find(") T ") == std::string::npos) return false;
    }
    return true;
  }

  static std::unique_ptr<NbdServer> start_first(std::unique_ptr<NbdServer> self,
                                                std::vector<std::string> words) {
    if (!std::filesystem::exists(words[0])) return nullptr;
    EXPECT_TRUE(self->start(words)) << self->process().output();
    return self;
  }

  TemporaryDirectory folder_;
  std::string image_ = folder_.make_image("disk.img", kBytes);
  std::string ready_file_;
  std::vector<std::string> words_;
  std::unique_ptr<ChildProcess> process_;
};

}  // namespace guestio::testing
