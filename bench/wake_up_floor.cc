// SPDX-License-Identifier: MIT
// The lower bound of a backend at depth 1 with a sleeping client: one eventfd signals a request,
// the request runs, another eventfd signals its completion. Registered file and buffers; no
// virtqueue and no checks. Run by `./dev bench`.
#include <fcntl.h>
#include <fmt/core.h>
#include <liburing.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <string_view>
#include <vector>

#include "guestio/base/standard_fds.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr unsigned kBlock = 4096;

void check(bool is_ok, const char* operation) {
  if (is_ok) return;
  fmt::print(stderr, "wake_up_floor: {}: {}\n", operation, std::strerror(errno));
  std::exit(1);
}

/// Shared between both processes.
struct Shared {
  std::atomic<std::uint64_t> submitted = 0;
  std::atomic<std::uint64_t> completed = 0;
  std::atomic<bool> wants_kick = true;
  std::atomic<bool> is_finished = false;
};

struct Arguments {
  const char* path;
  std::uint64_t blocks;
  bool writes;
  std::chrono::microseconds poll;  // for the next request before sleeping
  double seconds;
  double ramp;
  int client_core;
};

struct Signals {
  int kick = ::eventfd(0, EFD_NONBLOCK);
  int call = ::eventfd(0, EFD_NONBLOCK);
};

void serve(const Arguments& arguments, Shared& shared, const Signals& signals) {
  const int file = ::open(arguments.path, O_RDWR | O_DIRECT | O_CLOEXEC);
  check(file >= 0, "open the file");
  void* const memory = ::mmap(nullptr, kBlock, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  check(memory != MAP_FAILED, "mmap");
  io_uring ring{};
  const unsigned flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
  check(::io_uring_queue_init(8, &ring, flags) == 0, "io_uring_queue_init");
  (void)::io_uring_register_ring_fd(&ring);
  check(::io_uring_register_files(&ring, &file, 1) == 0, "register the file");
  const iovec all{memory, kBlock};
  check(::io_uring_register_buffers(&ring, &all, 1) == 0, "register buffers");
  ::io_uring_prep_poll_multishot(::io_uring_get_sqe(&ring), signals.kick, POLLIN);

  std::mt19937_64 engine{1};
  std::uint64_t taken = 0;
  Clock::time_point poll_until;
  while (!shared.is_finished) {
    if (taken != shared.submitted) {
      ++taken;
      io_uring_sqe* const entry = ::io_uring_get_sqe(&ring);
      ::io_uring_prep_rw(arguments.writes ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED, entry, 0,
                         memory, kBlock, engine() % arguments.blocks * kBlock);
      entry->flags |= IOSQE_FIXED_FILE;
      entry->user_data = 1;
      poll_until = {};
    } else if (Clock::now() < poll_until) {
      continue;
    } else if (taken == shared.completed) {
      shared.wants_kick = true;
      if (taken != shared.submitted) continue;
    }
    (void)::io_uring_submit_and_wait(&ring, 1);
    io_uring_cqe* completion = nullptr;
    while (::io_uring_peek_cqe(&ring, &completion) == 0) {
      const bool is_request = completion->user_data == 1;
      check(!is_request || completion->res == static_cast<int>(kBlock), "short transfer");
      ::io_uring_cqe_seen(&ring, completion);
      if (!is_request) continue;
      shared.wants_kick = false;
      ++shared.completed;
      check(::eventfd_write(signals.call, 1) == 0, "call the client");
      if (arguments.poll.count() != 0) poll_until = Clock::now() + arguments.poll;
    }
  }
}

/// Sends one request after the other. Prints fio's JSON.
void run_client(const Arguments& arguments, Shared& shared, const Signals& signals) {
  cpu_set_t core;
  CPU_ZERO(&core);
  CPU_SET(static_cast<std::size_t>(arguments.client_core), &core);
  check(::sched_setaffinity(0, sizeof core, &core) == 0, "sched_setaffinity");
  const auto seconds = [](double count) {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(count));
  };
  std::vector<std::int64_t> latencies;  // nanoseconds
  latencies.reserve(std::size_t{1} << 20);
  const auto from = Clock::now() + seconds(arguments.ramp);
  const auto to = from + seconds(arguments.seconds);
  for (auto since = Clock::now(); since < to;) {
    ++shared.submitted;
    if (shared.wants_kick) check(::eventfd_write(signals.kick, 1) == 0, "kick the server");
    while (shared.completed != shared.submitted) {
      pollfd call{signals.call, POLLIN, 0};
      (void)::poll(&call, 1, 1000);
      eventfd_t count = 0;
      (void)::eventfd_read(signals.call, &count);
    }
    const auto now = Clock::now();
    if (since >= from) latencies.push_back((now - since).count());
    since = now;
  }
  shared.is_finished = true;
  (void)::eventfd_write(signals.kick, 1);
  std::ranges::sort(latencies);
  const auto percentile = [&](double share) {
    const auto last = static_cast<double>(latencies.size() - 1);
    return latencies.empty() ? 0 : latencies[static_cast<std::size_t>(last * share)];
  };
  fmt::print(
      R"({{"jobs": [{{"write": {{"iops": 0}}, "read": {{"iops": {}, "clat_ns": {{"percentile": )"
      R"({{"50.000000": {}, "99.000000": {}, "99.900000": {}}}}}}}}}]}})"
      "\n",
      static_cast<double>(latencies.size()) / arguments.seconds, percentile(0.5), percentile(0.99),
      percentile(0.999));
}

}  // namespace

int main(int count, char** values) {
  guestio::open_standard_fds();
  if (count != 8) {
    fmt::print(stderr,
               "usage: wake_up_floor FILE SIZE read|write POLL_MICROSECONDS SECONDS RAMP "
               "CLIENT_CORE\n");
    return 2;
  }
  const Arguments arguments{.path = values[1],
                            .blocks = std::strtoull(values[2], nullptr, 10) / kBlock,
                            .writes = std::string_view(values[3]) == "write",
                            .poll = std::chrono::microseconds(std::atoi(values[4])),
                            .seconds = std::atof(values[5]),
                            .ramp = std::atof(values[6]),
                            .client_core = std::atoi(values[7])};
  void* const memory =
      ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  check(memory != MAP_FAILED, "shared memory");
  auto& shared = *new (memory) Shared;
  const Signals signals;
  // Two processes, to measure the CPU time of the server alone.
  const pid_t client = ::fork();
  check(client >= 0, "fork");
  if (client == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    run_client(arguments, shared, signals);
    return 0;
  }
  serve(arguments, shared, signals);
  check(::waitpid(client, nullptr, 0) == client, "wait for the client");
}
