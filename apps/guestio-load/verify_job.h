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

/// What all jobs of a verification share.
struct VerifyState {
  using Id = std::array<std::byte, virtio::blk::kIdBytes>;

  VerifyState(DiskRegion region, std::uint32_t block_size) : model(region, block_size) {}

  DiskModel model;
  // Counters for the report; nothing hangs on their order.
  std::array<std::atomic<std::uint64_t>, kOperationKinds> done{};
  std::atomic<std::uint64_t> bytes_read = 0;
  std::atomic<std::uint64_t> bytes_written = 0;
  std::atomic<std::uint64_t> descriptors = 0;
  std::mutex mutex;
  // protected by mutex
  std::optional<Id> id;         // the first that the device gave
  std::set<std::string> notes;  // what the specification forbids and drivers get along with
};

/// What is made of the bytes that reads bring.
enum class OnRead {
  kCompare,
  kLearn  ///< take them for what the disk holds
};

/// One queue under verification, and the thread function that drives it.
///
/// Threads: create() and finish() on the control thread, around each run(), which is one thread's.
class VerifyJob {
 public:
  /// The most bytes of a request on this device, at most what was asked for.
  static std::uint64_t largest_request(const Device& device, const VerifyArguments& arguments);
  static std::size_t memory_for(const Device& device, const VerifyArguments& arguments);
  static constexpr std::uint16_t kRingSize = 256;
  static Result<std::unique_ptr<VerifyJob>> create(Device& device, vhost::FrontendMemory& memory,
                                                   const VerifyArguments& arguments,
                                                   VerifyState& state, std::uint32_t index);

  /// Makes requests until the source has no more or somebody failed.
  void run(OperationSource& source, OnRead on_read, StopFlags& flags);
  /// The backend is another one now. On the control thread, also during run().
  Result<> resume(Device& device) const { return queue_.resume(device); }
  Result<> finish(Device& device) { return queue_.stop(device); }

  /// What went wrong, if anything did.
  [[nodiscard]] const std::optional<std::string>& failure() const noexcept { return failure_; }

 private:
  /// A request from when it is drawn until it is checked.
  struct Slot {
    explicit Slot(RequestLayout layout) : layout(std::move(layout)) {}

    RequestLayout layout;
    Operation operation;
    RequestQueue::Form form = RequestQueue::Form::kDirect;
    std::vector<std::byte> readable;  // header and what follows it
    std::vector<std::byte> written;   // what came back, status included
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
  bool blame(const Slot& slot, const std::string& what);
  void settle(const Slot& slot);

  const VerifyArguments& arguments_;
  VerifyState& state_;
  RequestQueue queue_;
  std::mt19937_64 engine_;
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_;       // slots
  std::optional<std::uint32_t> waiting_;  // a slot that is prepared and finds no room in the ring
  std::optional<std::string> failure_;
};

}  // namespace guestio::load
