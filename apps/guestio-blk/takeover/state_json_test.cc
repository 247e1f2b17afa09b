// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/takeover/state_json.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <set>
#include <string>

namespace guestio::app {
namespace {

using Json = nlohmann::json;

UniqueFd event() { return UniqueFd(::eventfd(0, EFD_CLOEXEC)); }

/// A session with all optional parts.
vhost::SessionState full_session() {
  vhost::SessionState state;
  state.socket = event();
  state.features = ~std::uint64_t{0};
  state.protocol_features = 1ULL << 63;
  state.status = 15;
  state.memory.push_back({{1ULL << 40, 4096, 2, 3}, event()});
  state.inflight = {{.mmap_size = 5, .mmap_offset = 6, .num_queues = 7, .queue_size = 8},
                    virtio::RingKind::kPacked,
                    event()};
  state.log = {{.size = 9, .offset = 10}, event()};
  state.log_event = event();
  state.back_channel = vhost::BackChannelState{
      .socket = event(), .awaits_acknowledgement = true, .awaited_request = 2};
  state.back_channel->partial_acknowledgement.bytes = {std::byte{1}, std::byte{255}};
  state.back_channel->pending_errors = {3};
  state.partial_message.bytes = {std::byte{0}};
  state.partial_message.descriptors.push_back(event());
  vhost::RingState ring{.size = 256, .base = 0x80018001, .has_kick = true, .is_running = true};
  ring.addresses = vhost::VringAddress{0, 1, 16, 32, 64, 128};
  ring.kick = event();
  ring.inband.call = event();
  state.rings.push_back(std::move(ring));
  return state;
}

/// The JSON after a round trip through text.
Json to_line(vhost::SessionState state, TakeoverMessage& message) {
  return Json::parse(to_json(std::move(state), message).dump());
}

struct Reading {
  vhost::SessionState state;
  std::string error;
};

Reading read(const Json& json, std::vector<UniqueFd>& descriptors) {
  Reading reading;
  reading.state = read_session(JsonFields(json, "session", descriptors, reading.error));
  return reading;
}

TEST(SessionJsonTest, ASessionSurvivesARoundTrip) {
  TakeoverMessage message;
  const Json json = to_line(full_session(), message);
  const std::size_t count = message.descriptors.size();
  auto reading = read(json, message.descriptors);
  EXPECT_EQ(reading.error, "");
  EXPECT_EQ(reading.state.memory[0].description.guest_address, 1ULL << 40);
  EXPECT_EQ(reading.state.inflight->kind, virtio::RingKind::kPacked);
  EXPECT_FALSE(reading.state.rings[0].call);
  TakeoverMessage again;
  EXPECT_EQ(to_line(std::move(reading.state), again), json);
  EXPECT_EQ(again.descriptors.size(), count);
}

/// All keys of objects at any depth.
void collect_keys(const Json& json, std::set<std::string>& keys) {
  for (const auto& [key, value] : json.items()) {
    if (json.is_object()) keys.insert(key);
    if (value.is_structured()) collect_keys(value, keys);
  }
}

// Other builds read and write these keys: a change of them needs another kTakeoverVersion.
TEST(SessionJsonTest, KeysAreThoseOfTheTakeoverVersion) {
  TakeoverMessage message;
  std::set<std::string> keys;
  collect_keys(to_line(full_session(), message), keys);
  const std::set<std::string> of_version_1 = {"addresses",
                                              "answer",
                                              "available",
                                              "awaits_answer",
                                              "base",
                                              "broken",
                                              "bytes",
                                              "call",
                                              "channel",
                                              "descriptors",
                                              "error",
                                              "fd",
                                              "fds",
                                              "features",
                                              "flags",
                                              "guest",
                                              "has_config_changed",
                                              "inband_call",
                                              "inband_error",
                                              "inband_kick",
                                              "incoming",
                                              "inflight",
                                              "is_enabled",
                                              "is_kick_known",
                                              "is_of_use",
                                              "kick",
                                              "log",
                                              "log_event",
                                              "memory",
                                              "offset",
                                              "packed",
                                              "protocol_features",
                                              "queue_size",
                                              "queues",
                                              "rings",
                                              "runs",
                                              "said",
                                              "size",
                                              "status",
                                              "used",
                                              "user",
                                              "wants_acknowledgement"};
  EXPECT_EQ(keys, of_version_1);
}

TEST(SessionJsonTest, AFieldOfAnotherKindOrRangeIsAnError) {
  TakeoverMessage message;
  const Json json = to_line(full_session(), message);
  const Json flat = json.flatten();
  for (const auto& [place, value] : flat.items()) {
    if (value.is_null()) continue;  // optional descriptor
    for (const Json& wrong :
         {Json("x"), Json(-1), Json(1.5), Json(Json::array({Json()})), Json{{"a", 1}}}) {
      Json invalid = json;
      invalid[Json::json_pointer(place)] = wrong;
      std::vector<UniqueFd> descriptors;
      for (std::size_t i = 0; i < message.descriptors.size(); ++i) descriptors.push_back(event());
      EXPECT_NE(read(invalid, descriptors).error, "") << place << " as " << wrong.dump();
    }
  }
}

TEST(SessionJsonTest, AMissingFieldOrDescriptorIsAnError) {
  TakeoverMessage message;
  const Json json = to_line(full_session(), message);
  for (const auto& [key, value] : json.items()) {
    Json invalid = json;
    invalid.erase(key);
    std::vector<UniqueFd> descriptors;
    for (std::size_t i = 0; i < message.descriptors.size(); ++i) descriptors.push_back(event());
    EXPECT_NE(read(invalid, descriptors).error, "") << key;
  }
  std::vector<UniqueFd> none;
  EXPECT_NE(read(json, none).error, "") << "no descriptors at all";
  Json twice = json;
  twice["log_event"] = twice["fd"];
  EXPECT_NE(read(twice, message.descriptors).error, "") << "one descriptor for two";
  for (const Json& nothing : {Json(), Json::array(), Json(7)}) {
    EXPECT_NE(read(nothing, none).error, "") << nothing.dump();
  }
}

}  // namespace
}  // namespace guestio::app
