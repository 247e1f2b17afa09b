// SPDX-License-Identifier: MIT
#include "guestio/disk/rbd/helper_threads.h"

#include "guestio/base/log.h"
#include "guestio/base/thread.h"

namespace guestio::disk::helper_threads {

namespace {

/// Of the process, and never destroyed: jobs may run until its very end.
struct RunningJobs {
  std::mutex mutex;
  std::condition_variable changed;
  // protected by mutex
  std::size_t count = 0;
};

RunningJobs& running_jobs() {
  static auto* const jobs = new RunningJobs;
  return *jobs;
}

void count_job(bool is_begin) {
  RunningJobs& jobs = running_jobs();
  const std::lock_guard lock(jobs.mutex);
  jobs.count = is_begin ? jobs.count + 1 : jobs.count - 1;
  jobs.changed.notify_all();
}

/// Leaves `job` to the caller if there is no thread.
Result<> try_run(std::unique_ptr<std::move_only_function<void()>>& job) {
  count_job(true);
  auto thread = start_thread("rbd-helper", [job = job.get()]() mutable {
    const std::unique_ptr<std::move_only_function<void()>> owned(job);
    (*owned)();
    *owned = nullptr;  // what it owns goes before the count
    count_job(false);
  });
  if (!thread) {
    count_job(false);
    return fail(thread.error());
  }
  (void)job.release();
  thread->detach();
  return {};
}

}  // namespace

Result<> run(std::move_only_function<void()> job) {
  auto owned = std::make_unique<std::move_only_function<void()>>(std::move(job));
  return try_run(owned);
}

void run_or_leak(std::move_only_function<void()> job) {
  auto owned = std::make_unique<std::move_only_function<void()>>(std::move(job));
  if (auto started = try_run(owned); !started) {
    log::error("rbd: an image stays open: {}", started.error().to_string());
    (void)owned.release();
  }
}

bool wait_idle(std::chrono::milliseconds limit) {
  RunningJobs& jobs = running_jobs();
  std::unique_lock lock(jobs.mutex);
  return jobs.changed.wait_for(lock, limit, [&] { return jobs.count == 0; });
}

}  // namespace guestio::disk::helper_threads
