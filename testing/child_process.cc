// SPDX-License-Identifier: MIT
#include "testing/child_process.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <csignal>
#include <filesystem>

#include "guestio/base/check.h"
#include "testing/wait_until.h"

namespace guestio::testing {

using std::chrono::milliseconds;
namespace {

[[noreturn]] void execute(std::vector<char*>& arguments, int output, int inherited) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::dup2(output, STDOUT_FILENO);
  ::dup2(output, STDERR_FILENO);
  if (inherited >= 0) ::fcntl(inherited, F_SETFD, 0);
  ::execv(arguments[0], arguments.data());
  ::_exit(127);
}

}  // namespace

ChildProcess::ChildProcess(const std::vector<std::string>& arguments, int inherited)
    : output_(::memfd_create("child-output", MFD_CLOEXEC)) {
  GUESTIO_CHECK(output_, "a memfd for the output of a child");
  // O_APPEND: standard output and error share the file without overwriting each other.
  ::fcntl(output_.get(), F_SETFL, O_APPEND);
  std::vector<std::string> copies = arguments;
  std::vector<char*> pointers;
  for (std::string& argument : copies) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  pid_ = ::fork();
  GUESTIO_CHECK(pid_ >= 0, "a child process");
  if (pid_ == 0) execute(pointers, output_.get(), inherited);
}

ChildProcess::~ChildProcess() {
  if (!is_running()) return;
  send_signal(SIGKILL);
  (void)wait();
}

bool ChildProcess::is_running() { return !has_ended(); }

bool ChildProcess::has_ended() {
  int status = 0;
  if (!status_ && ::waitpid(pid_, &status, WNOHANG) == pid_) {
    status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  return status_.has_value();
}

void ChildProcess::send_signal(int number) const { ::kill(pid_, number); }

std::optional<int> ChildProcess::wait(milliseconds limit) {
  (void)wait_until([this] { return has_ended(); }, limit);
  return status_;
}

std::string ChildProcess::output() const {
  std::string text(static_cast<std::size_t>(::lseek(output_.get(), 0, SEEK_END)), '\0');
  const auto size = ::pread(output_.get(), text.data(), text.size(), 0);
  text.resize(size < 0 ? 0 : static_cast<std::size_t>(size));
  return text;
}

bool ChildProcess::wait_for_output(const std::string& text, milliseconds limit) {
  const auto is_found = [&] { return output().find(text) != std::string::npos; };
  (void)wait_until([&] { return is_found() || has_ended(); }, limit);
  return is_found();
}

int ChildProcess::descriptor_count(int fd) const {
  struct stat file{};
  GUESTIO_CHECK(::fstat(fd, &file) == 0, "an open descriptor of the test");
  int count = 0;
  std::error_code error;
  const std::string directory = "/proc/" + std::to_string(pid_) + "/fd";
  for (std::filesystem::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    struct stat found{};  // the child may have closed it since the listing
    if (::stat(entry->path().c_str(), &found) != 0) continue;
    count += found.st_dev == file.st_dev && found.st_ino == file.st_ino ? 1 : 0;
  }
  return count;
}

bool ChildProcess::wait_for_descriptor_count(int fd, int count) {
  const auto has_count = [&] { return descriptor_count(fd) == count; };
  (void)wait_until([&] { return has_count() || has_ended(); });
  return !has_ended() && has_count();
}

}  // namespace guestio::testing
