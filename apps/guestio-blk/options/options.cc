// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/options/options.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <set>
#include <thread>

#include "apps/guestio-blk/options/config_file.h"
#include "apps/guestio-blk/options/cpu_list.h"
#include "apps/guestio-blk/options/image_name.h"
#include "apps/guestio-blk/options/limit_options.h"
#include "apps/shared/help_formatter.h"
#include "apps/shared/suggestion.h"
#include "guestio/base/version.h"

namespace guestio::app {

namespace {

/// The reply to management layers before they start a backend (QEMU, docs/interop/vhost-user.rst,
/// "Backend program conventions").
std::string capabilities() {
  return nlohmann::json{{"type", "block"}, {"features", {"read-only", "blk-file"}}}.dump(2) + "\n";
}

vhost::PollPolicy to_policy(const std::string& poll, std::uint32_t max_us) {
  using Kind = vhost::PollPolicy::Kind;
  const std::chrono::microseconds most(max_us);
  if (poll == "always") return {Kind::kAlways, most};
  // A policy without polls has nothing to adapt.
  return {poll == "fixed" || max_us == 0 ? Kind::kFixed : Kind::kAdaptive, most};
}

EarlyExit usage_error(const Diagnostics& diagnostics) {
  return {diagnostics.to_lines(), kExitUsage};
}

/// The command line as typed.
struct CommandLine {
  using Value = std::pair<std::string, std::string>;  ///< name and value of a setting
  std::vector<Value> disk_values;
  std::vector<Value> process_values;  ///< they override the file
  std::vector<std::string> disks;     ///< one text per --disk
  std::string config_path;
  std::vector<std::string> ask;
  std::string takeover;
  bool prints_capabilities = false;
  std::vector<std::string> unexpected;  ///< unknown options and stray words
};

template <typename Target>
void add_settings(CLI::App& app, std::span<const Setting<Target>> settings,
                  std::vector<CommandLine::Value>& values) {
  for (const Setting<Target>& setting : settings) {
    const std::string name = setting.name;
    const auto add = [&values, name](const std::string& value) {
      values.emplace_back(name, value);
    };
    CLI::Option* option = nullptr;
    if (setting.is_switch) {
      option = app.add_flag_callback("--" + name, [add] { add("on"); }, setting.help);
    } else {
      option = app.add_option_function<std::string>("--" + name, add, setting.help)
                   ->type_name(setting.type);
    }
    option->group(setting.group);
  }
}

/// The options that are no settings: each has one place, the command line.
void add_disk_list_options(CLI::App& app, CommandLine& command_line) {
  app.add_option("--disk", command_line.disks, "one of several disks: its options without dashes")
      ->type_name("KEY=VALUE,...")
      ->group(kDiskGroup)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->expected(1)
      ->allow_extra_args(false);
  app.add_option("--config", command_line.config_path,
                 "TOML file: process settings, then [[disk]] sections")
      ->type_name("PATH")
      ->group(kDiskGroup);
}

// With all limits of a disk.
constexpr int kMaxCommandWords = 32;

void add_control_options(CLI::App& app, CommandLine& command_line) {
  app.add_option("--ask", command_line.ask, "send command to --control PATH, print reply")
      ->option_text("PATH COMMAND [DISK] [SETTING]")
      ->group(kControlGroup)
      ->expected(2, kMaxCommandWords);
  app.add_option("--takeover", command_line.takeover,
                 "replace the running process with --control PATH")
      ->type_name("PATH")
      ->group(kControlGroup);
  app.add_flag("--print-capabilities", command_line.prints_capabilities,
               "print the capabilities as JSON and exit")
      ->group(kControlGroup);
  app.set_version_flag("--version", std::string("guestio-blk ") + kVersion,
                       "print the version and exit")
      ->group(kControlGroup);
  add_help_option(app, kControlGroup);
}

/// Reports unknown options, each with the nearest known one.
void check_unexpected(const CLI::App& app, const CommandLine& command_line,
                      Diagnostics& diagnostics) {
  std::vector<std::string> names;
  for (const CLI::Option* const option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back(name);
  }
  bool follows_option = false;
  for (const std::string& word : command_line.unexpected) {
    const bool is_option = word.starts_with('-') && word != "-" && word != "--";
    if (is_option) {
      const std::string typed = word.substr(0, word.find('='));
      const std::string name = typed.substr(std::min(typed.find_first_not_of('-'), typed.size()));
      diagnostics.add(typed,
                      fmt::format("is no option{}: --help shows all", suggest(name, names, "--")));
    } else if (!follows_option) {
      diagnostics.add(word, "belongs to no option: --help shows all");
    }
    follows_option = is_option && word.find('=') == std::string::npos;
  }
}

void read_one_disk(const CommandLine& command_line, Options& options, Diagnostics& diagnostics) {
  if (command_line.disk_values.empty()) return;
  if (!options.disks.empty() || !command_line.config_path.empty() || !command_line.disks.empty()) {
    for (const auto& [name, value] : command_line.disk_values) {
      diagnostics.add("--" + name,
                      "is about one disk, and there are --disk or --config: it belongs into "
                      "--disk, or under [[disk]]");
    }
    return;
  }
  DiskOptions disk;
  for (const auto& [name, value] : command_line.disk_values) {
    if (auto set = set_disk_option(disk, name, value); !set) diagnostics.add("--" + set.error());
  }
  options.disks.push_back(std::move(disk));
}

/// The command line overrides the file.
void read_process_options(const CommandLine& command_line, Options& options,
                          Diagnostics& diagnostics) {
  for (const auto& [name, value] : command_line.process_values) {
    if (auto set = set_process_option(options.as_given, name, value); !set) {
      diagnostics.add("--" + set.error());
    }
  }
}

void name_disks(std::vector<DiskOptions>& disks) {
  for (std::size_t i = 0; i < disks.size(); ++i) {
    if (disks[i].name.empty()) (void)set_disk_option(disks[i], "name", fmt::format("disk{}", i));
  }
}

void read_disks(const CommandLine& command_line, Options& options, Diagnostics& diagnostics) {
  if (!command_line.config_path.empty()) {
    ConfigFile file = read_config_file(command_line.config_path, diagnostics);
    options.disks = std::move(file.disks);
    options.as_given = std::move(file.process);
  }
  for (std::size_t i = 0; i < command_line.disks.size(); ++i) {
    options.disks.push_back(
        parse_disk(command_line.disks[i], fmt::format("--disk {}", i + 1), diagnostics));
  }
  read_one_disk(command_line, options, diagnostics);
  if (options.disks.empty() && diagnostics.empty()) {
    diagnostics.add(
        command_line.config_path.empty() ? "no disk to serve"
                                         : command_line.config_path + ": no disk",
        "add --socket-path PATH and --blk-file PATH, or --disk, or a --config file with "
        "a [[disk]] for each disk that has socket-path and blk-file");
  }
  // A missing setting may be a mistyped one.
  if (command_line.unexpected.empty()) {
    for (const DiskOptions& disk : options.disks) check_disk(disk, diagnostics);
  }
  name_disks(options.disks);
}

/// Reports options that conflict with --takeover: the other process supplies them.
void check_takeover(const CommandLine& command_line, Diagnostics& diagnostics) {
  const auto reject = [&](std::string_view option) {
    diagnostics.add(fmt::format("--{}", option),
                    "does not go with --takeover, which takes disks and control socket from the "
                    "running process: leave it out");
  };
  for (const auto& [name, value] : command_line.disk_values) reject(name);
  if (!command_line.disks.empty()) reject("disk");
  if (!command_line.config_path.empty()) reject("config");
  for (const auto& [name, value] : command_line.process_values) {
    if (name == "control" || name == "strict") reject(name);
  }
}

/// Whether two disks name the same image by the same path, and at least one writes to it.
bool share_an_image(const DiskOptions& a, const DiskOptions& b) {
  return !a.image.empty() && a.image == b.image && !is_in_memory(a.image) &&
         (!a.is_read_only || !b.is_read_only);
}

/// Names the owner of a setting that two disks must not share.
std::string describe_owner(const DiskOptions& disk, std::string_view setting) {
  return fmt::format("also that of disk {} ({})", disk.name, disk.origin_of(setting));
}

/// Compares descriptor numbers of one process only: in a takeover, served disks have those of the
/// other process.
void check_pair(const DiskOptions& one, const DiskOptions& other, bool is_takeover,
                Diagnostics& diagnostics) {
  const std::string_view socket = other.socket_fd ? "fd" : "socket-path";
  if (one.name == other.name) {
    diagnostics.add(other.origin_of("name"),
                    fmt::format("name {} is taken by another disk ({}): give each its own",
                                other.name, one.origin_of("name")));
  }
  const bool is_comparable = !one.place().empty() && !(is_takeover && other.socket_fd);
  if (is_comparable && one.place() == other.place()) {
    diagnostics.add(other.origin_of(socket),
                    fmt::format("{} of disk {} is {}: give each its own", other.place(), other.name,
                                describe_owner(one, socket)));
  }
  if (share_an_image(one, other)) {
    diagnostics.add(other.origin_of("blk-file"), describe_shared_image(one, other));
  }
}

void check_conflicts(const std::vector<DiskOptions>& disks, const std::string& control,
                     bool is_takeover, Diagnostics& diagnostics) {
  if (disks.size() > kMaxDisks) {
    diagnostics.add(fmt::format("{} disks: a process serves at most {}, start another one",
                                disks.size(), kMaxDisks));
    return;
  }
  for (auto one = disks.begin(); one != disks.end(); ++one) {
    if (!control.empty() && one->place() == control) {
      diagnostics.add(one->origin_of("socket-path"),
                      fmt::format("{} of disk {} is also that of the control socket (--control): "
                                  "give each its own",
                                  control, one->name));
    }
    for (auto other = std::next(one); other != disks.end(); ++other) {
      check_pair(*one, *other, is_takeover, diagnostics);
    }
  }
}

/// The number of processors for the queue threads.
std::size_t count_processors(const std::vector<int>& pinned_to) {
  if (!pinned_to.empty()) return std::set<int>(pinned_to.begin(), pinned_to.end()).size();
  const std::size_t allowed = allowed_cpus().size();
  return allowed != 0 ? allowed : std::max<std::size_t>(std::thread::hardware_concurrency(), 1);
}

void read_threads(const ProcessOptions& as_given, Options& options) {
  const auto queues =
      std::accumulate(options.disks.begin(), options.disks.end(), std::size_t{0},
                      [](std::size_t sum, const DiskOptions& disk) { return sum + disk.queues; });
  options.cpus = as_given.cpus.value_or(std::vector<int>());
  // Queues on one processor share a thread: it polls both, and none waits for the scheduler.
  options.threads =
      as_given.threads.value_or(std::min({queues, count_processors(options.cpus), kMaxThreads}));
  options.has_submission_threads = as_given.has_submission_threads;
  options.submission_cpus = as_given.submission_cpus.value_or(std::vector<int>());
  const std::string poll = as_given.poll.value_or("adaptive");
  const auto usual =
      std::chrono::duration_cast<std::chrono::microseconds>(options.polling.max_window);
  const std::uint32_t most =
      as_given.poll_max_us.value_or(static_cast<std::uint32_t>(usual.count()));
  options.polling = to_policy(poll, most);
}

std::expected<Options, EarlyExit> build_options(const CLI::App& app,
                                                const CommandLine& command_line) {
  Options options;
  Diagnostics diagnostics;
  check_unexpected(app, command_line, diagnostics);
  if (!command_line.takeover.empty()) {
    check_takeover(command_line, diagnostics);
    read_process_options(command_line, options, diagnostics);
    options.takeover = command_line.takeover;
    options.is_verbose = options.as_given.is_verbose;
  } else {
    read_disks(command_line, options, diagnostics);
    read_process_options(command_line, options, diagnostics);
    resolve_options(options, diagnostics);
  }
  if (!diagnostics.empty()) return std::unexpected(usage_error(diagnostics));
  return options;
}

}  // namespace

std::string describe_shared_image(const DiskOptions& one, const DiskOptions& other) {
  const std::string what =
      one.image == other.image
          ? fmt::format("{} is also the image of disk {}", other.image, one.name)
          : fmt::format("{} is the same image as {} of disk {}", other.image, one.image, one.name);
  return fmt::format("{} ({}), and one of the two writes: serve it once, or give both read-only",
                     what, one.origin_of("blk-file"));
}

void resolve_options(Options& options, Diagnostics& diagnostics) {
  const ProcessOptions& as_given = options.as_given;
  check_conflicts(options.disks, as_given.control_path, !options.takeover.empty(), diagnostics);
  assign_throttles(options.disks, diagnostics);
  read_threads(as_given, options);
  options.control_path = as_given.control_path;
  options.is_strict = as_given.is_strict;
  if (as_given.shutdown_timeout) {
    options.shutdown_timeout = std::chrono::seconds(*as_given.shutdown_timeout);
  }
  options.is_verbose = as_given.is_verbose;
}

std::expected<Options, EarlyExit> parse_options(int argc, const char* const* argv) {
  CommandLine command_line;
  CLI::App app(
      "Serves disk images to virtual machines as vhost-user-blk devices, in the foreground.",
      "guestio-blk");
  app.footer(
      "SIGTERM, SIGINT and SIGHUP drain requests in flight and end the process.\n"
      "SIGUSR1 retries held requests (--on-error) now, SIGUSR2 fails them.\n"
      "Exit status: 0 after a request to stop, 1 on failure or refusal, 2 on wrong options, "
      "without\n"
      "a disk to serve, or without a process at the control socket. Details: docs/options.md");
  app.formatter(std::make_shared<HelpFormatter>());
  app.allow_extras();
  add_settings(app, disk_settings(), command_line.disk_values);
  add_disk_list_options(app, command_line);
  add_settings(app, process_settings(), command_line.process_values);
  add_control_options(app, command_line);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return std::unexpected(EarlyExit{app.help(), 0});
  } catch (const CLI::CallForVersion&) {
    return std::unexpected(EarlyExit{app.version() + "\n", 0});
  } catch (const CLI::ParseError& error) {
    Diagnostics diagnostics;
    diagnostics.add(fmt::format("{} (--help shows the options)", error.what()));
    return std::unexpected(usage_error(diagnostics));
  }
  command_line.unexpected = app.remaining();
  if (command_line.prints_capabilities) return std::unexpected(EarlyExit{capabilities(), 0});
  if (!command_line.ask.empty() && command_line.unexpected.empty()) {
    Options options;
    options.ask = std::move(command_line.ask);
    return options;
  }
  return build_options(app, command_line);
}

}  // namespace guestio::app
