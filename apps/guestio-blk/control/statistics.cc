// SPDX-License-Identifier: MIT
// Gathers the counters of all threads. Each number is read on its own while the threads count on.
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>

#include "apps/guestio-blk/control/commands.h"

namespace guestio::app {

namespace {

using Json = nlohmann::json;
using buf::BounceReason;

/// All counters of one queue, or the sums of a disk.
struct Counts {
  blk::QueueStatistics requests;
  disk::ChannelStatistics channel;
  vhost::VringCounters rings;
  std::uint64_t held = 0;  // held requests now
  disk::ThrottleStatistics throttle = {};

  void add(const Counts& other) {
    requests.add(other.requests);
    channel.transfers.plans += other.channel.transfers.plans;
    channel.transfers.direct_bytes += other.channel.transfers.direct_bytes;
    channel.transfers.bounced.add(other.channel.transfers.bounced);
    channel.bounce.waits += other.channel.bounce.waits;
    channel.bounce.wait_time += other.channel.bounce.wait_time;
    channel.bounce.longest_wait =
        std::max(channel.bounce.longest_wait, other.channel.bounce.longest_wait);
    channel.direct_calls += other.channel.direct_calls;
    channel.shortages += other.channel.shortages;
    held += other.held;
    throttle.throttled += other.throttle.throttled;
    throttle.wait_ns += other.throttle.wait_ns;
    rings.kicks += other.rings.kicks;
    rings.calls += other.rings.calls;
    rings.malformed += other.rings.malformed;
    rings.broken += other.rings.broken;
    rings.registered_regions += other.rings.registered_regions;
    rings.unregistered_regions += other.rings.unregistered_regions;
  }
};

Counts count(const ServedDisk& disk, std::size_t queue) {
  const blk::BlockQueue& requests = *disk.queues()[queue];
  return {.requests = requests.statistics(),
          .channel = requests.channel_statistics(),
          .rings = *disk.backend().queues()[queue]->counters(),
          .held = requests.held(),
          .throttle = requests.throttle_statistics() != nullptr ? *requests.throttle_statistics()
                                                                : disk::ThrottleStatistics()};
}

double to_microseconds(std::chrono::nanoseconds time) {
  return static_cast<double>(time.count()) / 1000.0;
}

Json to_json(const blk::LatencyHistogram& latency) {
  return {{"samples", latency.count()},
          {"p50_us", to_microseconds(latency.percentile(0.5))},
          {"p99_us", to_microseconds(latency.percentile(0.99))},
          {"p99.9_us", to_microseconds(latency.percentile(0.999))}};
}

Json to_json(const Counts& counts) {
  Json kinds;
  for (std::size_t i = 0; i < blk::kRequestKinds; ++i) {
    const auto& kind = counts.requests.kinds[i];
    kinds[blk::to_text(static_cast<blk::RequestKind>(i))] = {{"requests", kind.requests.value()},
                                                             {"bytes", kind.bytes.value()},
                                                             {"errors", kind.errors.value()}};
  }
  const buf::BouncedBytes& bounced = counts.channel.transfers.bounced;
  return {{"requests", std::move(kinds)},
          {"latency", to_json(counts.requests.latency)},
          {"direct_bytes", counts.channel.transfers.direct_bytes.value()},
          {"bounced_bytes",
           {{"misaligned", bounced[BounceReason::kMisaligned]},
            {"joint", bounced[BounceReason::kSegmentBoundary]},
            {"padding", bounced[BounceReason::kPadding]},
            {"policy", bounced[BounceReason::kPolicy]},
            {"many_pieces", bounced[BounceReason::kManyPieces]},
            {"slow_copy", bounced[BounceReason::kSlowCopy]},
            {"total", bounced.total()}}},
          {"bounce_waits", counts.channel.bounce.waits},
          {"bounce_wait_us", to_microseconds(counts.channel.bounce.wait_time)},
          {"longest_bounce_wait_us", to_microseconds(counts.channel.bounce.longest_wait)},
          {"direct_calls", counts.channel.direct_calls},
          {"shortages", counts.channel.shortages},
          {"held_requests", counts.held},
          {"throttled_requests", counts.throttle.throttled.value()},
          {"throttle_wait_us",
           to_microseconds(std::chrono::nanoseconds(counts.throttle.wait_ns.value()))},
          {"kicks", counts.rings.kicks.value()},
          {"calls", counts.rings.calls.value()},
          {"malformed_chains", counts.rings.malformed.value()},
          {"broken_rings", counts.rings.broken.value()},
          {"fixed_regions", counts.rings.registered_regions.value()},
          {"unfixed_regions", counts.rings.unregistered_regions.value()}};
}

Json to_json(const disk::DiskStatus& status) {
  return {{"name", status.backend},
          {"available", status.is_available},
          {"connections", status.connections},
          {"reconnects", status.reconnects},
          {"last_error", status.detail}};
}

/// The sums of the queues of a thread.
struct ThreadLoad {
  std::uint64_t requests = 0;
  std::uint64_t direct_calls = 0;
};
using ThreadLoads = std::map<std::string, ThreadLoad>;

Json to_json(const vhost::QueueThread& thread, const ThreadLoad& load) {
  const uring::LoopStatistics loop = thread.statistics();
  const vhost::RingPoller::Counters poller = thread.poll_counters();
  const std::uint64_t calls = loop.enter_calls + load.direct_calls;
  Json json = {{"name", thread.name()},
               {"requests", load.requests},
               {"system_calls", calls},
               {"sleeps", poller.sleeps.value()},
               {"polls_hit", poller.poll_hits.value()},
               {"polls_missed", poller.empty_polls.value()},
               {"resting_rings", poller.parked.value()},
               {"submission_queue_full", loop.sq_full.value()}};
  if (load.requests != 0) {
    json["system_calls_per_request"] =
        static_cast<double>(calls) / static_cast<double>(load.requests);
  }
  return json;
}

}  // namespace

Json make_statistics(const ServerContext& context) {
  Json disks = Json::array();
  ThreadLoads loads;
  for (const auto& disk : context.disks) {
    Json queues = Json::array();
    Counts all;
    for (std::size_t i = 0; i < disk->queues().size(); ++i) {
      const Counts counts = count(*disk, i);
      const std::string& thread = disk->backend().queues()[i]->thread().name();
      loads[thread].requests += counts.requests.requests();
      loads[thread].direct_calls += counts.channel.direct_calls;
      all.add(counts);
      queues.push_back(to_json(counts));
      queues.back()["thread"] = thread;
    }
    disks.push_back(to_json(all));
    disks.back()["name"] = disk->name();
    disks.back()["backend"] = to_json(disk->disk()->status());
    disks.back()["queues"] = std::move(queues);
  }
  Json threads = Json::array();
  for (const auto& thread : context.threads.all()) {
    threads.push_back(to_json(*thread, loads[thread->name()]));
  }
  return {{"disks", std::move(disks)}, {"threads", std::move(threads)}};
}

}  // namespace guestio::app
