// SPDX-License-Identifier: MIT
#include "commands.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "guestio/base/version.h"

namespace guestio::app {

namespace {

using Json = nlohmann::json;

Json error(std::string text) { return {{"error", std::move(text)}}; }

/// Which disk a command names: by "disk", or the only one there is.
std::expected<ServedDisk*, std::string> find_disk(const Subjects& subjects, const Json& command) {
  const auto name = command.find("disk");
  if (name == command.end()) {
    if (subjects.disks.size() == 1) return subjects.disks.front().get();
    return std::unexpected("which disk? (\"disk\": its name, as info lists them)");
  }
  if (!name->is_string()) return std::unexpected("a disk's name is a string");
  const auto& wanted = name->get_ref<const std::string&>();
  const auto found = std::ranges::find(subjects.disks, wanted, &ServedDisk::name);
  if (found == subjects.disks.end()) return std::unexpected("there is no disk " + wanted);
  return found->get();
}

Json info(const Subjects& subjects, const Json&) {
  Json disks = Json::array();
  for (const auto& disk : subjects.disks) {
    const disk::DiskInfo& facts = disk->info();
    disks.push_back({{"name", disk->name()},
                     {"image", disk->options().image},
                     {"socket", disk->place()},
                     {"size", facts.size.raw()},
                     {"block_size", facts.block_size.raw()},
                     {"read_only", facts.is_read_only},
                     {"queues", disk->options().queues},
                     {"connected", disk->backend().is_connected()},
                     {"hears_of_changes", disk->backend().hears_of_changes()}});
  }
  return {{"return",
           {{"version", kVersion},
            {"pid", ::getpid()},
            {"threads", subjects.threads.all().size()},
            {"disks", std::move(disks)}}}};
}

Json statistics(const Subjects& subjects, const Json&) {
  return {{"return", make_statistics(subjects)}};
}

Json resize(const Subjects& subjects, const Json& command) {
  const auto disk = find_disk(subjects, command);
  if (!disk) return error(disk.error());
  const auto before = (*disk)->info().size.raw();
  const auto resized = (*disk)->notice_size();
  if (!resized) return error(fmt::format("{}: {}", (*disk)->name(), resized.error().to_string()));
  return {
      {"return",
       {{"disk", (*disk)->name()},
        {"size_before", before},
        {"size", resized->raw()},
        {"guest_was_told", resized->raw() != before && (*disk)->backend().hears_of_changes()}}}};
}

Json decide(const Subjects& subjects, const Json& command, HeldRequests::Decision decision) {
  const auto disk = find_disk(subjects, command);
  if (!disk) return error(disk.error());
  (*disk)->decide(decision);
  return {{"return", {{"disk", (*disk)->name()}}}};
}

Json retry(const Subjects& subjects, const Json& command) {
  return decide(subjects, command, HeldRequests::Decision::kResume);
}

Json give_up(const Subjects& subjects, const Json& command) {
  return decide(subjects, command, HeldRequests::Decision::kGiveUp);
}

Json help(const Subjects& subjects, const Json& command);

struct Command {
  const char* name;
  const char* help;
  Json (*answer)(const Subjects& subjects, const Json& command);
};

constexpr std::array kCommands = {
    Command{"help", "the commands", help},
    Command{"info", "the disks, their sizes, and who is connected", info},
    Command{"statistics", "what was counted since the process started", statistics},
    Command{"retry", "asks \"disk\" again for what waits for it (--on-error)", retry},
    Command{"give-up", "tells the guest that what waits for \"disk\" failed", give_up},
    Command{"resize", "notices that the image of \"disk\" has grown, and tells its guest", resize},
};

Json help(const Subjects&, const Json&) {
  Json texts;
  for (const Command& command : kCommands) texts[command.name] = command.help;
  return {{"return", std::move(texts)}};
}

}  // namespace

Json answer_command(const Subjects& subjects, const Json& command) {
  const auto& name = command["command"].get_ref<const std::string&>();
  const auto found = std::ranges::find(kCommands, name, &Command::name);
  if (found == kCommands.end()) return error("there is no command " + name + " (help lists them)");
  return found->answer(subjects, command);
}

}  // namespace guestio::app
