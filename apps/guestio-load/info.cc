// SPDX-License-Identifier: MIT
#include "apps/guestio-load/info.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "apps/guestio-load/device.h"
#include "apps/guestio-load/request_queue.h"
#include "guestio/base/version.h"
#include "guestio/vhost/frontend/frontend_memory.h"
#include "guestio/vhost/wire/messages.h"
#include "guestio/virtio/blk_layout.h"
#include "guestio/virtio/layout.h"

namespace guestio::load {

namespace blk = virtio::blk;
using Json = nlohmann::ordered_json;
using virtio::Direction;

namespace {

/// Feature bits by name; unknown ones by number.
template <typename Names>
void add_names(std::uint64_t& bits, const Names& names, std::vector<std::string>& to) {
  for (const auto& named : names) {
    if ((bits & named.bit) == 0) continue;
    to.emplace_back(named.name);
    bits &= ~named.bit;
  }
}

void add_numbers(std::uint64_t bits, std::vector<std::string>& to) {
  for (unsigned bit = 0; bit < 64; ++bit) {
    if ((bits >> bit & 1) != 0) to.push_back(fmt::format("bit {}", bit));
  }
}

std::vector<std::string> feature_names(virtio::FeatureBits features) {
  std::vector<std::string> names;
  add_names(features, blk::kFeatureNames, names);
  add_names(features, virtio::kRingFeatureNames, names);
  constexpr std::array kVhostNames = {
      virtio::FeatureName{vhost::kFeatureLogAll, "VHOST_F_LOG_ALL"},
      virtio::FeatureName{vhost::kFeatureProtocolFeatures, "VHOST_USER_F_PROTOCOL_FEATURES"}};
  add_names(features, kVhostNames, names);
  add_numbers(features, names);
  return names;
}

std::vector<std::string> protocol_names(vhost::ProtocolBits features) {
  std::vector<std::string> names;
  add_names(features, vhost::kProtocolFeatureNames, names);
  add_numbers(features, names);
  return names;
}

/// Text up to the first NUL, with unprintable bytes as question marks.
std::string printable(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte byte : bytes) {
    if (byte == std::byte{0}) break;
    const auto character = static_cast<char>(byte);
    text += character >= ' ' && character <= '~' ? character : '?';
  }
  return text;
}

/// Calls may be spurious, for example when a queue starts.
Result<RequestQueue::Completion> wait_for_completion(RequestQueue& queue,
                                                     std::chrono::milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (std::chrono::steady_clock::now() < deadline) {
    const auto completion = queue.reap();
    if (!completion) return fail(completion.error());
    if (*completion) return **completion;
    const auto slept = queue.sleep(std::chrono::milliseconds(100));
    if (!slept) return fail(slept.error());
  }
  return fail(Error::host(ETIMEDOUT, "wait for a completion"));
}

/// Reads the device ID with a VIRTIO_BLK_T_GET_ID request, which needs a running queue.
Result<std::string> read_id(Device& device, std::chrono::milliseconds limit) {
  auto memory = vhost::FrontendMemory::create(std::size_t{1} << 16);
  if (!memory) return fail(memory.error());
  const std::array regions = {memory->region()};
  const auto set = device.frontend().set_mem_table(regions);
  if (!set) return fail(set.error());
  auto queue = RequestQueue::create(device, *memory, {.size = 16});
  if (!queue) return fail(queue.error());
  const auto range = memory->allocate(kPageSize, kPageSize);
  if (!range) return fail(range.error());
  const blk::RequestHeader header{blk::RequestType::kGetId, 0, 0};
  std::memcpy(range->host, &header, sizeof(header));
  const auto status = range->part(512, 1);
  *status.host = std::byte{0xff};
  const auto id = range->part(256, blk::kIdBytes);
  const std::array<virtio::DriverSegment, 3> segments = {
      {{range->gpa, sizeof(header), Direction::kReadable},
       {id.gpa, blk::kIdBytes, Direction::kWritable},
       {status.gpa, 1, Direction::kWritable}}};
  auto done = queue->add(0, segments, RequestQueue::Form::kDirect);
  if (done) done = queue->send();
  if (!done) return fail(done.error());
  const auto completion = wait_for_completion(*queue, limit);
  if (!completion) return fail(completion.error());
  if (*status.host != std::byte{0}) return fail(ErrorKind::kUnsupported, "VIRTIO_BLK_T_GET_ID");
  done = queue->stop(device);
  if (!done) return fail(done.error());
  return printable(std::span(id.host, blk::kIdBytes));
}

/// Limits of discard or write-zeroes.
Json range_limits(std::uint32_t sectors, std::uint32_t segments) {
  return {{"max_sectors", sectors}, {"max_segments", segments}};
}

Json to_json(const Device& device) {
  const blk::Config& config = device.config();
  Json json = {{"capacity", device.capacity().raw()},
               {"block_size", device.block_size()},
               {"read_only", device.is_read_only()},
               {"queues", device.session().queues},
               {"features", feature_names(device.session().offered_features)},
               {"protocol_features", protocol_names(device.session().offered_protocol)},
               {"config_size", device.config_size()}};
  if (device.has(blk::kFeatureMultiQueue)) json["num_queues"] = config.num_queues;
  if (device.has(blk::kFeatureSegMax)) json["seg_max"] = config.seg_max;
  if (device.has(blk::kFeatureSizeMax)) json["size_max"] = config.size_max;
  if (device.has(blk::kFeatureTopology)) {
    json["topology"] = {{"physical_block_exp", config.topology.physical_block_exp},
                        {"alignment_offset", config.topology.alignment_offset},
                        {"min_io_size", config.topology.min_io_size},
                        {"opt_io_size", config.topology.opt_io_size}};
  }
  if (device.has(blk::kFeatureConfigWce)) json["writeback"] = config.writeback;
  if (device.has(blk::kFeatureDiscard)) {
    json["discard"] = range_limits(config.max_discard_sectors, config.max_discard_seg);
    json["discard"]["sector_alignment"] = config.discard_sector_alignment;
  }
  if (device.has(blk::kFeatureWriteZeroes)) {
    json["write_zeroes"] =
        range_limits(config.max_write_zeroes_sectors, config.max_write_zeroes_seg);
    json["write_zeroes"]["may_unmap"] = config.write_zeroes_may_unmap != 0;
  }
  return json;
}

/// One line per value, with aligned columns.
void print_lines(const Json& json, const std::string& prefix) {
  for (const auto& [key, value] : json.items()) {
    const std::string name = prefix + key;
    if (value.is_object()) {
      print_lines(value, name + ".");
    } else if (value.is_array()) {
      fmt::print("{:<26} {}\n", name, fmt::join(value.get<std::vector<std::string>>(), " "));
    } else if (value.is_string()) {
      fmt::print("{:<26} {}\n", name, value.get<std::string>());
    } else if (key == "capacity") {
      fmt::print("{:<26} {} ({})\n", name, value.dump(),
                 format_byte_count(ByteCount(value.get<std::uint64_t>())));
    } else {
      fmt::print("{:<26} {}\n", name, value.dump());
    }
  }
}

}  // namespace

int show_info(const InfoArguments& arguments) {
  auto device = Device::open(arguments.target);
  if (!device) {
    fmt::print(stderr, "guestio-load: {}\n", device.error().to_string());
    return kExitFailed;
  }
  const auto id = read_id(*device, arguments.target.deadline);
  if (!id && id.error().kind != ErrorKind::kUnsupported) {
    fmt::print(stderr, "guestio-load: {}\n", id.error().to_string());
    return kExitFailed;
  }
  Json json = {{"socket_path", arguments.target.socket_path}};
  if (id) json["id"] = *id;
  json.update(to_json(*device));
  if (arguments.format == OutputFormat::kJson) {
    fmt::print("{}\n", json.dump(2));
  } else {
    print_lines(json, "");
  }
  return 0;
}

}  // namespace guestio::load
