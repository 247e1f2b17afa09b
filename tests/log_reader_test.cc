// SPDX-License-Identifier: MIT
// The log of a serving process: stalled readers, and the disk each line names.
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>

#include "guestio/base/log.h"
#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

/// A named pipe for the standard error of a program, full from the start.
class FullPipe {
 public:
  explicit FullPipe(std::string path) : path_(std::move(path)) {
    EXPECT_EQ(::mkfifo(path_.c_str(), 0600), 0);
    end_.reset(::open(path_.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
    const std::array<char, 4096> bytes{};
    while (::write(end_.get(), bytes.data(), bytes.size()) > 0) {
    }
  }

  /// Starts another program with this as standard error.
  [[nodiscard]] std::vector<std::string> wrapper() const {
    return {"/bin/sh", "-c", "exec \"$@\" 2>'" + path_ + "'", "sh"};
  }
  /// Reads until `text` arrives; false after a minute without data.
  bool reads_until(const std::string& text) {
    std::array<char, 4096> bytes;
    while (all_.find(text) == std::string::npos) {
      pollfd waits{.fd = end_.get(), .events = POLLIN, .revents = 0};
      if (::poll(&waits, 1, 60'000) != 1) return false;
      const ssize_t size = ::read(end_.get(), bytes.data(), bytes.size());
      if (size > 0) all_.append(bytes.data(), static_cast<std::size_t>(size));
    }
    return true;
  }
  [[nodiscard]] const std::string& all() const noexcept { return all_; }

 private:
  const std::string path_;
  UniqueFd end_;
  std::string all_;
};

class LogReaderTest : public BackendTest {
 protected:
  static constexpr std::uint32_t kQueues = 8;

  void start_on_full_pipe() {
    auto words = pipe_.wrapper();
    words.insert(words.end(), {kBackendProgram, "--socket-path", socket_, "--blk-file", image_,
                               "--num-queues", std::to_string(kQueues), "--verbose"});
    backend_ = std::make_unique<testing::ChildProcess>(words);
  }
  std::unique_ptr<testing::BlkGuest> connect_once_ready() {
    const testing::BlkGuest::Options options{.queues = kQueues};
    auto guest = testing::BlkGuest::connect(socket_, options);
    while (!guest && backend_->is_running()) guest = testing::BlkGuest::connect(socket_, options);
    EXPECT_TRUE(guest.has_value()) << backend_->output();
    return guest ? std::move(*guest) : nullptr;
  }
  /// Successive front-ends: one line for each ring start and stop, in all more than the log keeps.
  /// Each writes, and reads its predecessor's data.
  void make_lines() {
    constexpr int kVisits = 200;
    static_assert(kVisits * 2 * kQueues > 2 * log::kMaxQueuedLines);
    std::vector<std::byte> before(4096);
    for (int i = 0; i < kVisits; ++i) {
      const auto guest = connect_once_ready();
      ASSERT_NE(guest, nullptr);
      ASSERT_EQ(guest->read(8, 4096).data, before);
      before.assign(before.size(), static_cast<std::byte>(i));
      ASSERT_EQ(guest->write(8, before).status, 0);
      ASSERT_EQ(guest->read(kImageBytes, 512).status, 1) << "beyond the end: another log line";
    }
  }

  FullPipe pipe_{folder_.file("log")};
};

TEST_F(LogReaderTest, AStalledOneDelaysNoRequestAndNoSignal) {
  start_on_full_pipe();
  make_lines();
  stop();
  EXPECT_FALSE(std::filesystem::exists(socket_));
}

TEST_F(LogReaderTest, AResumedOneGetsTheDropCountAndAllLaterLines) {
  start_on_full_pipe();
  make_lines();
  EXPECT_TRUE(pipe_.reads_until(" log lines dropped: the reader of standard error is too slow\n"))
      << pipe_.all();
  backend_->send_signal(SIGTERM);
  EXPECT_TRUE(pipe_.reads_until("asked to stop")) << pipe_.all();
  EXPECT_EQ(backend_->wait(), 0);
}

/// Two disks of one process, and every failure of a disk.
class LinesOfTwoDisksTest : public BackendTest {
 protected:
  struct Disk {
    std::string name;
    std::string socket;
    std::string image;
  };

  Disk make_disk(const std::string& name) {
    // Not a whole number of blocks: one log line.
    return {name, folder_.file(name + ".sock"), folder_.make_image(name + ".img", kBytes + 100)};
  }
  void start_both(const std::string& more) {
    std::vector<std::string> words = {kBackendProgram, "--verbose"};
    for (const Disk& disk : disks_) {
      words.insert(words.end(), {"--disk", "name=" + disk.name + ",socket-path=" + disk.socket +
                                               ",blk-file=" + disk.image + more});
    }
    backend_ = std::make_unique<testing::ChildProcess>(words);
    ASSERT_TRUE(backend_->wait_for_output("ready ")) << backend_->output();
  }
  std::unique_ptr<testing::BlkGuest> guest_of(const Disk& disk) {
    auto guest = testing::BlkGuest::connect(disk.socket);
    EXPECT_TRUE(guest.has_value()) << backend_->output();
    return guest ? std::move(*guest) : nullptr;
  }
  /// Lines about the process itself; all others begin with the name of a disk.
  void expect_each_line_names_its_disk() {
    const std::regex of_a_disk("disk (red|blue)(, queue [0-9]+)?: .*");
    const std::regex of_the_process("(ready|asked to) .*");
    std::istringstream lines(backend_->output());
    for (std::string line; std::getline(lines, line);) {
      const auto text = line.find(": ");
      ASSERT_NE(text, std::string::npos) << line;
      line = line.substr(text + 2);
      EXPECT_TRUE(std::regex_match(line, of_a_disk) || std::regex_match(line, of_the_process))
          << line;
    }
  }
  /// Waits until both disks have a line with `text`.
  void expect_of_both(const std::string& text) {
    for (const Disk& disk : disks_) {
      const std::regex line(" disk " + disk.name + "(, queue 0)?: [^\n]*" + text);
      EXPECT_TRUE(std::regex_search(backend_->output(), line)) << text << "\n"
                                                               << backend_->output();
    }
  }

  static constexpr std::uint64_t kBytes = std::uint64_t{4} << 20;
  const std::array<Disk, 2> disks_ = {make_disk("red"), make_disk("blue")};
};

TEST_F(LinesOfTwoDisksTest, EachFailureNamesItsDisk) {
  start_both(",on-error=hold,buffered,iopoll");
  const rlimit limit{.rlim_cur = kBytes / 2, .rlim_max = RLIM_INFINITY};
  ASSERT_EQ(::prlimit(backend_->pid(), RLIMIT_FSIZE, &limit, nullptr), 0);
  for (const Disk& disk : disks_) {
    const auto guest = guest_of(disk);
    ASSERT_NE(guest, nullptr);
    EXPECT_EQ(guest->read(kBytes, 512).status, 1);
    EXPECT_FALSE(guest->frontend().send_message(99));
  }
  for (const Disk& disk : disks_) {
    const auto guest = guest_of(disk);
    ASSERT_NE(guest, nullptr);
    // Held until the operator ends the retries.
    const std::jthread operator_command([this, &disk] {
      const std::string held = "disk " + disk.name + ", queue 0: requests held pending retry";
      EXPECT_TRUE(backend_->wait_for_output(held)) << backend_->output();
      backend_->send_signal(SIGUSR2);
    });
    EXPECT_EQ(guest->write(kBytes / 2 / 512, std::vector<std::byte>(512)).status, 1);
  }
  stop();
  expect_each_line_names_its_disk();
  for (const char* text :
       {"partial last block", "polled I/O", "serves ", "request failed", "refused unknown message",
        "requests held pending retry", "no request is held"}) {
    expect_of_both(text);
  }
}

}  // namespace
}  // namespace guestio::tests
