// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "apps/guestio-load/arguments.h"
#include "apps/guestio-load/device.h"
#include "apps/guestio-load/disk_model.h"
#include "apps/guestio-load/operation_source.h"
#include "apps/guestio-load/request_layout.h"
#include "apps/guestio-load/request_queue.h"
#include "apps/guestio-load/run_job.h"
#include "guestio/virtio/blk_layout.h"

namespace guestio::load {

/// State shared by all jobs of a verification.
struct VerifyState {
  using Id = std::array<std::byte, virtio::blk::kIdBytes>;

  VerifyState(DiskRegion region, std::uint32_t block_size) : model(region, block_size) {}

  DiskModel model;
  // Counters for the report. Relaxed: order nothing else.
  std::array<std::atomic<std::uint64_t>, kOperationKinds> done{};
  std::atomic<std::uint64_t> bytes_read = 0;
  std::atomic<std::uint64_t> bytes_written = 0;
  std::atomic<std::uint64_t> descriptors = 0;
  std::mutex mutex;
  // protected by mutex
  std::optional<Id> id;         // the first reply to GET_ID
  std::set<std::string> notes;  // violations of the specification that drivers tolerate
};

/// Use of the data of reads.
enum class OnRead {
  kCompare,
  kLearn  ///< into the model
};

/// One job: a queue, and the thread function that verifies it.
///
/// Threads: create() and finish() on the control thread, before and after each run() on one thread.
class VerifyJob {
 public:
  /// Maximum bytes of a request, by the device and the arguments.
  static std::uint64_t max_request_bytes(const Device& device, const VerifyArguments& arguments);
  static std::size_t memory_for(const Device& device, const VerifyArguments& arguments);
  static constexpr std::uint16_t kRingSize = 256;
  static Result<std::unique_ptr<VerifyJob>> create(Device& device, vhost::FrontendMemory& memory,
                                                   const VerifyArguments& arguments,
                                                   VerifyState& state, std::uint32_t index);

  /// Sends requests until the end of the source or a failure of any job.
  void run(OperationSource& source, OnRead on_read, StopFlags& flags);
  /// Resumes the queue on a new backend. On the control thread, also during run().
  Result<> resume(Device& device) const { return queue_.resume(device); }
  Result<> finish(Device& device) { return queue_.stop(device); }

  /// The failure, if any.
  [[nodiscard]] const std::optional<std::string>& failure() const noexcept { return failure_; }

 private:
  /// A request from draw to check.
  struct Slot {
    explicit Slot(RequestLayout layout) : layout(std::move(layout)) {}

    RequestLayout layout;
    Operation operation;
    RequestQueue::Form form = RequestQueue::Form::kDirect;
    std::vector<std::byte> readable;  // header and data
    std::vector<std::byte> written;   // data and status from the device
  };

  VerifyJob(const VerifyArguments& arguments, VerifyState& state, RequestQueue queue,
            std::uint32_t index);
  Result<> loop(OperationSource& source, OnRead on_read, StopFlags& flags);
  Result<OperationSource::Draw> submit(OperationSource& source);
  void prepare(Slot& slot);
  Result<bool> reap(OnRead on_read);
  bool check(Slot& slot, std::uint32_t written, OnRead on_read);
  bool check_data(const Slot& slot, OnRead on_read);
  bool check_id(const Slot& slot);
  bool fail_verification(const Slot& slot, const std::string& what);
  void apply_to_model(const Slot& slot);

  const VerifyArguments& arguments_;
  VerifyState& state_;
  RequestQueue queue_;
  std::mt19937_64 engine_;
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_;       // slots
  std::optional<std::uint32_t> waiting_;  // a prepared slot without room in the ring
  std::optional<std::string> failure_;
};

}  // namespace guestio::load
