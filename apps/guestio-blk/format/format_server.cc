// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/format/format_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

namespace guestio::app {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// Descriptors of the supervisor.
constexpr int kLifeline = 3;
constexpr int kListening = 4;
constexpr const char* kSocketName = "nbd";
constexpr std::size_t kMaxMessage = 4096;

std::string socket_path(const std::string& folder) { return folder + "/" + kSocketName; }

/// pidfd_open() has no wrapper in this C library.
UniqueFd open_pidfd(pid_t pid) {
  return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

std::vector<char*> to_arguments(const std::vector<std::string>& words) {
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  return arguments;
}

/// Starts this program as a supervisor: without blocked and ignored signals, and in a process group
/// of its own, which Ctrl-C does not reach. Each pair: a descriptor, and its number there.
Result<pid_t> spawn_supervisor(const std::vector<std::string>& words,
                               const std::vector<std::pair<int, int>>& descriptors) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawnattr_init(&attributes);
  for (const auto& [given, number] : descriptors) {
    ::posix_spawn_file_actions_adddup2(&actions, given, number);
  }
  sigset_t none;
  sigset_t all;
  sigemptyset(&none);
  sigfillset(&all);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setsigdefault(&attributes, &all);
  ::posix_spawnattr_setflags(
      &attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  pid_t pid = -1;
  const int error = ::posix_spawn(&pid, "/proc/self/exe", &actions, &attributes,
                                  to_arguments(words).data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&attributes);
  if (error != 0) return fail(Error::host(error, "start the supervisor of an image"));
  return pid;
}

/// Starts the daemon. It ends with this process. Requires: one thread.
pid_t fork_daemon(const std::vector<std::string>& words, int listening, int listening_there,
                  int output) {
  const auto arguments = to_arguments(words);
  const pid_t supervisor = ::getpid();
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  for (const int number : {SIGPIPE, SIGINT, SIGHUP, SIGTERM}) std::signal(number, SIG_DFL);
  (void)::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != supervisor) ::_exit(1);
  ::dup2(output, STDOUT_FILENO);
  ::dup2(output, STDERR_FILENO);
  ::dup2(listening, listening_there);
  ::execvp(arguments.front(), arguments.data());
  const std::string_view text =
      errno == ENOENT ? "qemu-storage-daemon is not installed (package qemu-system-common)"
                      : "qemu-storage-daemon cannot be executed";
  (void)!::write(STDERR_FILENO, text.data(), text.size());
  ::_exit(1);
}

Result<UniqueFd> listen_at(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return fail(ErrorKind::kTooLarge, "path of a private socket", path.size());
  }
  std::ranges::copy(path, address.sun_path);
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_host("make a private socket");
  const auto* const bound = reinterpret_cast<const sockaddr*>(&address);
  if (::bind(socket.get(), bound, sizeof address) != 0 || ::listen(socket.get(), SOMAXCONN) != 0) {
    return fail_host("listen at a private socket");
  }
  return socket;
}

/// A folder that only this user may enter.
Result<std::string> make_folder() {
  for (const char* const name : {"RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "TMPDIR", ""}) {
    const char* const base = *name != '\0' ? std::getenv(name) : "/tmp";
    if (base == nullptr) continue;
    // systemd separates several by colons.
    const std::string parent(base, std::strcspn(base, ":"));
    std::string folder = parent + "/guestio-format-XXXXXX";
    if (::mkdtemp(folder.data()) != nullptr) return folder;
  }
  return fail_host("make a private folder (in $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR or /tmp)");
}

/// The process that starts the daemon, and starts it again when it ends.
class Supervisor {
 public:
  Supervisor(FormatImage image, std::string folder, UniqueFd listening)
      : image_(std::move(image)), folder_(std::move(folder)), listening_(std::move(listening)) {}

  int run() {
    while (is_wanted()) {
      const auto started_at = Clock::now();
      run_daemon();
      if (!is_wanted()) break;
      // The image lock of an earlier daemon is gone soon; other causes need the operator.
      const bool is_first = !has_served_;
      const bool is_locked = output_.find("Is another process using") != std::string::npos;
      if (is_first && !(is_locked && Clock::now() < first_deadline_)) {
        send(SupervisorMessage::Kind::kFailed, cause());
        return 1;
      }
      if (!is_first) report_restart();
      // A daemon that ran for long starts again at once.
      if (Clock::now() - started_at > kLongRun) pause_ = kFirstPause;
      wait_on_lifeline(pause_);
      pause_ = std::min(2 * pause_, kLongestPause);
    }
    return 0;
  }

 private:
  static constexpr milliseconds kFirstPause{10};
  static constexpr milliseconds kLongestPause{1000};
  static constexpr milliseconds kLongRun{1000};
  static constexpr milliseconds kPatienceWithLocks{5000};
  static constexpr milliseconds kPatienceWithEnd{10000};
  static constexpr std::size_t kMaxOutput = 2048;

  /// Whether another end of the lifeline is open.
  [[nodiscard]] bool is_wanted() const noexcept { return is_wanted_; }

  void wait_on_lifeline(milliseconds limit) {
    pollfd lifeline{.fd = kLifeline, .events = POLLIN, .revents = 0};
    if (::poll(&lifeline, 1, static_cast<int>(limit.count())) > 0) read_lifeline();
  }

  /// The other end only closes, or says that the image was served.
  void read_lifeline() {
    char byte = 0;
    const ssize_t got = ::recv(kLifeline, &byte, 1, MSG_DONTWAIT);
    if (got > 0) {
      has_served_ = true;
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
      is_wanted_ = false;
    }
  }

  /// Runs the daemon until it ends, or until it is no longer wanted.
  void run_daemon() {
    output_.clear();
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) return;
    UniqueFd output(ends[0]);
    UniqueFd input(ends[1]);
    // Another number than here, where the descriptor is closed on execution.
    constexpr int kDaemonSocket = 100;
    const pid_t pid = fork_daemon(daemon_command(image_, kDaemonSocket), listening_.get(),
                                  kDaemonSocket, input.get());
    input.reset();
    if (pid < 0) {
      output_ = fail_host("start qemu-storage-daemon").error().to_string();
      return;
    }
    const UniqueFd process = open_pidfd(pid);
    watch(process, output);
    if (!is_wanted_) end_daemon(pid, process);
    int status = 0;
    (void)::waitpid(pid, &status, 0);
    read_output(output);
    if (output_.empty()) output_ = describe(status);
  }

  void watch(const UniqueFd& process, const UniqueFd& output) {
    bool has_output = true;
    while (is_wanted_) {
      std::array<pollfd, 3> waited = {
          pollfd{.fd = kLifeline, .events = POLLIN, .revents = 0},
          pollfd{.fd = process.get(), .events = POLLIN, .revents = 0},
          pollfd{.fd = has_output ? output.get() : -1, .events = POLLIN, .revents = 0}};
      if (::poll(waited.data(), waited.size(), -1) < 0 && errno != EINTR) return;
      if (waited[0].revents != 0) read_lifeline();
      if (waited[2].revents != 0) has_output = read_output(output);
      if (waited[1].revents != 0) return;
    }
  }

  /// Returns false at its end.
  bool read_output(const UniqueFd& output) {
    std::array<char, 1024> bytes;
    pollfd waited{.fd = output.get(), .events = POLLIN, .revents = 0};
    while (::poll(&waited, 1, 0) > 0) {
      const ssize_t got = ::read(output.get(), bytes.data(), bytes.size());
      if (got <= 0) return false;
      const std::string_view text(bytes.data(), static_cast<std::size_t>(got));
      if (has_served_) {
        send(SupervisorMessage::Kind::kLog, std::string(text));
      }
      output_ += text.substr(0, kMaxOutput - std::min(output_.size(), kMaxOutput));
    }
    return true;
  }

  /// SIGTERM lets it flush and close the image.
  static void end_daemon(pid_t pid, const UniqueFd& process) {
    (void)::kill(pid, SIGTERM);
    pollfd ended{.fd = process.get(), .events = POLLIN, .revents = 0};
    if (::poll(&ended, 1, static_cast<int>(kPatienceWithEnd.count())) > 0) return;
    (void)::kill(pid, SIGKILL);
  }

  static std::string describe(int status) {
    if (WIFSIGNALED(status))
      return fmt::format("qemu-storage-daemon: ended by signal {}", WTERMSIG(status));
    return fmt::format("qemu-storage-daemon: ended with status {}", WEXITSTATUS(status));
  }

  /// Its last output on one line, without the options that it quotes.
  [[nodiscard]] std::string cause() const {
    std::string text = output_.substr(0, output_.find_last_not_of(" \n") + 1);
    const std::string quoted = "--blockdev " + image_node(image_) + ": ";
    if (const auto at = text.find(quoted); at != std::string::npos) text.erase(at, quoted.size());
    std::ranges::replace(text, '\n', ' ');
    return text;
  }

  /// One message for each cause.
  void report_restart() {
    if (cause() == reported_) return;
    reported_ = cause();
    send(SupervisorMessage::Kind::kRestarted, reported_);
  }

  /// Drops it when nobody reads.
  static void send(SupervisorMessage::Kind kind, const std::string& text) {
    const std::string message =
        static_cast<char>(kind) + text.substr(0, std::min(text.size(), kMaxMessage - 1));
    (void)::send(kLifeline, message.data(), message.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  }

  const FormatImage image_;
  const std::string folder_;
  const UniqueFd listening_;
  const Clock::time_point first_deadline_ = Clock::now() + kPatienceWithLocks;
  milliseconds pause_ = kFirstPause;
  bool is_wanted_ = true;
  bool has_served_ = false;
  std::string output_;    // of the present daemon
  std::string reported_;  // the last cause
};

}  // namespace

int run_format_supervisor(int argc, char** argv) {
  // A fault of this process must not leave the daemon behind.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGINT, SIG_IGN);
  std::signal(SIGHUP, SIG_IGN);
  // Its parent ends it by the lifeline: SIGTERM to the service's processes comes too early.
  std::signal(SIGTERM, SIG_IGN);
  (void)::prctl(PR_SET_NAME, kFormatSupervisor);
  (void)::fcntl(kLifeline, F_SETFD, FD_CLOEXEC);
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() < 2) return 2;
  (void)::fcntl(kListening, F_SETFD, FD_CLOEXEC);
  const std::string folder = words[0];
  const int status =
      Supervisor(from_words({words.begin() + 1, words.end()}), folder, UniqueFd(kListening)).run();
  (void)::unlink(socket_path(folder).c_str());
  (void)::rmdir(folder.c_str());
  return status;
}

Result<FormatServer> FormatServer::start(const FormatImage& image) {
  auto folder = make_folder();
  if (!folder) return fail(folder.error());
  auto started = start_in(*folder, image);
  if (!started) {
    std::error_code ignored;
    std::filesystem::remove_all(*folder, ignored);
  }
  return started;
}

Result<FormatServer> FormatServer::start_in(const std::string& folder, const FormatImage& image) {
  (void)::mkdir(folder.c_str(), S_IRWXU);
  (void)::unlink(socket_path(folder).c_str());
  const auto listening = listen_at(socket_path(folder));
  if (!listening) return fail(listening.error());
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    return fail_host("make a lifeline");
  }
  UniqueFd ours(ends[0]);
  const UniqueFd theirs(ends[1]);
  std::vector<std::string> words = {kFormatSupervisor, folder};
  for (std::string& word : to_words(image)) words.push_back(std::move(word));
  // No descriptor of the supervisor overwrites another one.
  constexpr int kAbove = 10;
  const UniqueFd high_lifeline(::fcntl(theirs.get(), F_DUPFD_CLOEXEC, kAbove));
  const UniqueFd high_listening(::fcntl(listening->get(), F_DUPFD_CLOEXEC, kAbove));
  if (!high_lifeline || !high_listening) return fail_host("duplicate a descriptor");
  const auto pid = spawn_supervisor(
      words, {{high_lifeline.get(), kLifeline}, {high_listening.get(), kListening}});
  if (!pid) return fail(pid.error());
  return FormatServer(std::move(ours), folder);
}

Result<FormatServer> FormatServer::adopt(UniqueFd lifeline, std::string folder) {
  if (!lifeline || folder.empty()) {
    return fail(ErrorKind::kInvalidArgument, "the lifeline of an image's server");
  }
  return FormatServer(std::move(lifeline), std::move(folder));
}

std::string FormatServer::uri() const {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/";
  std::string path;
  for (const char letter : socket_path(folder_)) {
    if (kPlain.find(letter) != std::string_view::npos) {
      path += letter;
    } else {
      path += fmt::format("%{:02X}", static_cast<unsigned char>(letter));
    }
  }
  return fmt::format("nbd+unix:///{}?socket={}", kFormatExport, path);
}

void FormatServer::confirm() const {
  (void)::send(lifeline_.get(), "s", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void FormatServer::end() const {
  // More than the supervisor grants the daemon.
  constexpr milliseconds kPatience{12000};
  const auto deadline = Clock::now() + kPatience;
  (void)::shutdown(lifeline_.get(), SHUT_WR);
  pollfd lifeline{.fd = lifeline_.get(), .events = POLLIN, .revents = 0};
  for (auto left = kPatience; left > milliseconds(0);
       left = std::chrono::ceil<milliseconds>(deadline - Clock::now())) {
    if (::poll(&lifeline, 1, static_cast<int>(left.count())) <= 0) continue;
    const auto message = receive();
    if (message && message->kind == SupervisorMessage::Kind::kEnded) return;
  }
}

std::optional<SupervisorMessage> FormatServer::receive() const {
  std::array<char, kMaxMessage> bytes;
  const ssize_t got = ::recv(lifeline_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
  if (got < 0) return std::nullopt;
  if (got == 0) return SupervisorMessage{.kind = SupervisorMessage::Kind::kEnded, .text = {}};
  const auto size = static_cast<std::size_t>(got);
  return SupervisorMessage{.kind = static_cast<SupervisorMessage::Kind>(bytes[0]),
                           .text = std::string(bytes.data() + 1, size - 1)};
}

}  // namespace guestio::app
