// SPDX-License-Identifier: MIT
// The raw ring with vectored requests, which fio lacks: random io_uring reads of a file into
// several segments, with registered file and buffers, in batches. Run by `./dev bench`.
#include <fcntl.h>
#include <fmt/core.h>
#include <liburing.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "guestio/base/standard_fds.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr unsigned kReadVectorFixed = 60;  // IORING_OP_READV_FIXED; not in liburing 2.3
constexpr std::size_t kPage = 4096;

[[noreturn]] void exit_with(const char* operation, int error) {
  fmt::print(stderr, "raw_ring: {}: {}\n", operation, std::strerror(error));
  std::exit(1);
}

struct Arguments {
  const char* path;
  std::uint64_t size;  // bytes to read from
  std::uint32_t block;
  unsigned depth;
  unsigned segments;  // per request; each of whole pages
  double seconds;
  double ramp;
};

/// One request and its memory.
struct Slot {
  std::vector<iovec> segments;
  Clock::time_point since;
};

class Load {
 public:
  explicit Load(const Arguments& arguments) : arguments_(arguments), slots_(arguments.depth) {
    const int file = ::open(arguments.path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (file < 0) exit_with("open the file", errno);
    make_slots();
    const unsigned flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
    if (int e = ::io_uring_queue_init(arguments.depth, &ring_, flags); e < 0)
      exit_with("io_uring_queue_init", -e);
    if (int e = ::io_uring_register_files(&ring_, &file, 1); e < 0)
      exit_with("register the file", -e);
    const iovec all{memory_, memory_size_};
    if (int e = ::io_uring_register_buffers(&ring_, &all, 1); e < 0)
      exit_with("register buffers", -e);
    latencies_.reserve(std::size_t{1} << 22);
  }

  /// Keeps the iodepth full for the runtime. Prints fio's JSON.
  void run() {
    const auto start = Clock::now();
    const auto from = start + seconds(arguments_.ramp);
    const auto to = from + seconds(arguments_.seconds);
    for (unsigned i = 0; i < arguments_.depth; ++i) submit(i, start);
    for (auto now = start; now < to;) {
      if (int e = ::io_uring_submit_and_wait(&ring_, 1); e < 0 && e != -EINTR)
        exit_with("io_uring_enter", -e);
      now = Clock::now();
      reap(now, now >= from && now < to);
    }
    print();
  }

 private:
  static Clock::duration seconds(double count) {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(count));
  }

  /// A gap of a page keeps segments from being merged.
  void make_slots() {
    const std::size_t segment = arguments_.block / arguments_.segments;
    const std::size_t step = (segment + kPage - 1) / kPage * kPage + kPage;
    memory_size_ = step * arguments_.segments * arguments_.depth;
    memory_ = ::mmap(nullptr, memory_size_, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory_ == MAP_FAILED) exit_with("mmap", errno);
    auto* next = static_cast<std::byte*>(memory_);
    for (Slot& slot : slots_) {
      for (unsigned i = 0; i < arguments_.segments; ++i, next += step) {
        slot.segments.push_back({next, segment});
      }
    }
  }

  void submit(std::uint64_t index, Clock::time_point now) {
    Slot& slot = slots_[index];
    const std::uint64_t block = engine_() % (arguments_.size / arguments_.block);
    io_uring_sqe* const entry = ::io_uring_get_sqe(&ring_);
    ::io_uring_prep_readv(entry, 0, slot.segments.data(),
                          static_cast<unsigned>(slot.segments.size()), block * arguments_.block);
    entry->opcode = kReadVectorFixed;
    entry->flags |= IOSQE_FIXED_FILE;
    entry->user_data = index;
    slot.since = now;
  }

  void reap(Clock::time_point now, bool is_measured) {
    io_uring_cqe* completion = nullptr;
    while (::io_uring_peek_cqe(&ring_, &completion) == 0) {
      const std::uint64_t index = completion->user_data;
      if (completion->res != static_cast<std::int32_t>(arguments_.block)) {
        exit_with("read", completion->res < 0 ? -completion->res : EIO);
      }
      ::io_uring_cqe_seen(&ring_, completion);
      if (is_measured) latencies_.push_back((now - slots_[index].since).count());
      submit(index, now);
    }
  }

  void print() {
    std::ranges::sort(latencies_);
    const auto percentile = [this](double share) {
      const auto last = static_cast<double>(latencies_.size() - 1);
      return latencies_.empty() ? 0 : latencies_[static_cast<std::size_t>(last * share)];
    };
    fmt::print(
        R"({{"jobs": [{{"write": {{"iops": 0}}, "read": {{"iops": {}, "clat_ns": {{"percentile": )"
        R"({{"50.000000": {}, "99.000000": {}, "99.900000": {}}}}}}}}}]}})"
        "\n",
        static_cast<double>(latencies_.size()) / arguments_.seconds, percentile(0.5),
        percentile(0.99), percentile(0.999));
  }

  const Arguments& arguments_;
  std::vector<Slot> slots_;
  io_uring ring_{};
  void* memory_ = nullptr;
  std::size_t memory_size_ = 0;
  std::mt19937_64 engine_{1};
  std::vector<std::int64_t> latencies_;  // nanoseconds
};

}  // namespace

int main(int count, char** values) {
  guestio::open_standard_fds();
  if (count != 8) {
    fmt::print(stderr, "usage: raw_ring FILE SIZE BLOCK DEPTH SEGMENTS SECONDS RAMP\n");
    return 2;
  }
  const Arguments arguments{.path = values[1],
                            .size = std::stoull(values[2]),
                            .block = static_cast<std::uint32_t>(std::stoul(values[3])),
                            .depth = static_cast<unsigned>(std::stoul(values[4])),
                            .segments = static_cast<unsigned>(std::stoul(values[5])),
                            .seconds = std::stod(values[6]),
                            .ramp = std::stod(values[7])};
  // On the heap for its size; ends with the process, which closes and unmaps everything.
  std::make_unique<Load>(arguments).release()->run();
}
