// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/control/commands.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "apps/guestio-blk/options/limit_options.h"
#include "apps/shared/suggestion.h"
#include "guestio/base/log.h"
#include "guestio/base/version.h"

namespace guestio::app {

namespace {

using Json = nlohmann::json;

Json error(std::string text) { return {{"error", std::move(text)}}; }

/// The disk of a command: one of the two is set.
struct Named {
  ServedDisk* served = nullptr;
  FailedDisk* failed = nullptr;
};

/// Finds the disk of a command: the field "disk", or the only disk of the process.
std::expected<Named, std::string> find_any_disk(const ServerContext& context, const Json& command) {
  const auto name = command.find("disk");
  if (name == command.end()) {
    if (context.disks.size() + context.failed.size() != 1) {
      return std::unexpected("field \"disk\" is missing: the name of a disk, as info lists it");
    }
    if (context.failed.empty()) return Named{.served = context.disks.front().get()};
    return Named{.failed = context.failed.front().get()};
  }
  if (!name->is_string()) return std::unexpected("a disk's name is a string");
  const auto& wanted = name->get_ref<const std::string&>();
  std::vector<std::string> names;
  for (const auto& disk : context.disks) {
    if (disk->name() == wanted) return Named{.served = disk.get()};
    names.push_back(disk->name());
  }
  for (const auto& disk : context.failed) {
    if (disk->name() == wanted) return Named{.failed = disk.get()};
    names.push_back(disk->name());
  }
  return std::unexpected(
      fmt::format("there is no disk {}{}: info lists them", wanted, suggest(wanted, names)));
}

/// The same for commands that need a served disk.
std::expected<ServedDisk*, std::string> find_disk(const ServerContext& context,
                                                  const Json& command) {
  const auto named = find_any_disk(context, command);
  if (!named) return std::unexpected(named.error());
  if (named->served != nullptr) return named->served;
  return std::unexpected(
      fmt::format("disk {}: cannot be served: {}", named->failed->name(), named->failed->cause()));
}

Json info(const ServerContext& context, const Json&) {
  Json disks = Json::array();
  for (const auto& disk : context.disks) {
    const disk::DiskInfo& facts = disk->info();
    disks.push_back({{"name", disk->name()},
                     {"state", "served"},
                     {"image", disk->options().image},
                     {"backend", disk->disk()->status().backend},
                     {"available", disk->disk()->status().is_available},
                     {"socket", disk->place()},
                     {"size", facts.size.raw()},
                     {"block_size", facts.block_size.raw()},
                     {"read_only", facts.is_read_only},
                     {"queues", disk->options().queues},
                     {"connected", disk->backend().is_connected()},
                     {"hears_of_changes", disk->backend().can_notify_config_change()}});
  }
  for (const auto& disk : context.failed) {
    disks.push_back({{"name", disk->name()},
                     {"state", "failed"},
                     {"error", disk->cause()},
                     {"attempts", disk->attempts()},
                     {"image", disk->options().image},
                     {"socket", disk->options().place()},
                     {"read_only", disk->options().is_read_only},
                     {"queues", disk->options().queues},
                     {"connected", false}});
  }
  return {{"return",
           {{"version", kVersion},
            {"pid", ::getpid()},
            {"threads", context.threads.all().size()},
            {"disks", std::move(disks)}}}};
}

Json statistics(const ServerContext& context, const Json&) {
  return {{"return", make_statistics(context)}};
}

Json resize(const ServerContext& context, const Json& command) {
  const auto disk = find_disk(context, command);
  if (!disk) return error(disk.error());
  const auto before = (*disk)->info().size.raw();
  const auto resized = (*disk)->refresh_size();
  if (!resized) return error(fmt::format("{}: {}", (*disk)->name(), resized.error().to_string()));
  return {{"return",
           {{"disk", (*disk)->name()},
            {"size_before", before},
            {"size", resized->raw()},
            {"guest_was_told",
             resized->raw() != before && (*disk)->backend().can_notify_config_change()}}}};
}

Json decide(const ServerContext& context, const Json& command, HeldRequests::Decision decision) {
  const auto disk = find_disk(context, command);
  if (!disk) return error(disk.error());
  (*disk)->decide(decision);
  return {{"return", {{"disk", (*disk)->name()}}}};
}

/// Retries a failed disk, or the held requests of a served one.
Json retry(const ServerContext& context, const Json& command) {
  if (const auto named = find_any_disk(context, command); named && named->failed != nullptr) {
    named->failed->retry_now();
    return {{"return", {{"disk", named->failed->name()}, {"state", "failed"}}}};
  }
  return decide(context, command, HeldRequests::Decision::kRetry);
}

Json give_up(const ServerContext& context, const Json& command) {
  return decide(context, command, HeldRequests::Decision::kFail);
}

/// The field "limits": names with numbers or texts.
std::expected<std::vector<SettingText>, std::string> read_changes(const Json& command) {
  std::vector<SettingText> changes;
  const auto given = command.find("limits");
  if (given == command.end()) return changes;
  if (!given->is_object()) return std::unexpected("field \"limits\" is not an object");
  for (const auto& [name, value] : given->items()) {
    if (!value.is_string() && !value.is_number_unsigned()) {
      return std::unexpected(fmt::format("{} takes a number or a text", name));
    }
    changes.emplace_back(name, value.is_string() ? value.get<std::string>() : value.dump());
  }
  return changes;
}

Json describe_limits(const DiskOptions& disk) {
  Json limits = Json::object();
  for (const auto& [name, value] : to_settings(disk.throttle->limits())) {
    limits[name] = std::stoull(value);
  }
  Json result = {{"disk", disk.name}, {"limits", std::move(limits)}};
  if (!disk.limit_group.empty()) result["limit_group"] = disk.limit_group;
  return {{"return", std::move(result)}};
}

/// Shows the limits of a disk and its group, or changes them.
Json limit(const ServerContext& context, const Json& command) {
  const auto named = find_any_disk(context, command);
  if (!named) return error(named.error());
  const DiskOptions& disk =
      named->served != nullptr ? named->served->options() : named->failed->options();
  const auto changes = read_changes(command);
  if (!changes) return error(changes.error());
  if (changes->empty()) return describe_limits(disk);
  disk::ThrottleLimits limits = disk.throttle->limits();
  if (auto changed = change_limits(limits, *changes); !changed) return error(changed.error());
  disk.throttle->set_limits(limits);
  for (const auto& one : context.disks) {
    if (one->options().throttle == disk.throttle) one->on_limits_changed();
  }
  std::string text;
  for (const auto& [name, value] : to_settings(limits)) text += fmt::format(" {}={}", name, value);
  log::info("{}: limits changed:{}", disk.label(), text.empty() ? " none" : text);
  return describe_limits(disk);
}

Json help(const ServerContext& context, const Json& command);

struct Command {
  const char* name;
  const char* help;
  bool takes_disk;
  Json (*answer)(const ServerContext& context, const Json& command);
  std::string_view more = {};  ///< its field beside "disk"
};

constexpr std::array kCommands = {
    Command{"help", "lists the commands", false, help},
    Command{"info", "lists the disks: size, connection, cause of failure", false, info},
    Command{"statistics", "shows all counters since the start of the process", false, statistics},
    Command{
        "retry",
        "retries the held requests of \"disk\" (--on-error), or \"disk\" itself if it cannot be "
        "served",
        true, retry},
    Command{"give-up", "fails the held requests of \"disk\"", true, give_up},
    Command{"resize", "uses the new size of the image of \"disk\", and tells the guest", true,
            resize},
    Command{"limit",
            "shows the limits of \"disk\" and its group, or changes those in \"limits\" (0 removes "
            "one)",
            true, limit, "limits"},
};

/// Describes the first unknown field of `command`; empty without one.
std::string find_unknown_field(const Command& command, const Json& given) {
  for (const auto& [key, value] : given.items()) {
    if (key == "command" || (key == "disk" && command.takes_disk)) continue;
    if (!command.more.empty() && key == command.more) continue;
    std::vector<std::string> known = {"command", "disk"};
    std::string fields = command.takes_disk ? "only \"disk\"" : "none at all";
    if (!command.more.empty()) {
      known.emplace_back(command.more);
      fields += fmt::format(" and \"{}\"", command.more);
    }
    return fmt::format("{} takes no field \"{}\"{}: {}", command.name, key,
                       command.takes_disk ? suggest(key, known) : "", fields);
  }
  return {};
}

Json help(const ServerContext&, const Json&) {
  Json texts;
  for (const Command& command : kCommands) texts[command.name] = command.help;
  return {{"return", std::move(texts)}};
}

}  // namespace

Json handle_command(const ServerContext& context, const Json& command) {
  const auto& name = command["command"].get_ref<const std::string&>();
  const auto found = std::ranges::find(kCommands, name, &Command::name);
  if (found == kCommands.end()) {
    std::vector<std::string> names = {"takeover"};
    for (const Command& one : kCommands) names.emplace_back(one.name);
    return error(
        fmt::format("there is no command {}{}: help lists them", name, suggest(name, names)));
  }
  if (std::string unknown = find_unknown_field(*found, command); !unknown.empty()) {
    return error(std::move(unknown));
  }
  return found->answer(context, command);
}

}  // namespace guestio::app
