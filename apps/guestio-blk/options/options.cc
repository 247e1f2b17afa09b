// SPDX-License-Identifier: MIT
#include "options/options.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <set>
#include <thread>

#include "apps/shared/suggestion.h"
#include "guestio/base/version.h"
#include "options/config_file.h"
#include "options/cpu_list.h"

namespace guestio::app {

namespace {

/// What a management layer asks for before it starts a backend (QEMU, docs/interop/vhost-user.rst,
/// "Backend program conventions").
std::string capabilities() {
  return nlohmann::json{{"type", "block"}, {"features", {"read-only", "blk-file"}}}.dump(2) + "\n";
}

vhost::PollPolicy to_policy(const std::string& poll, std::uint32_t max_us) {
  using Kind = vhost::PollPolicy::Kind;
  const std::chrono::microseconds most(max_us);
  if (poll == "always") return {Kind::kAlways, most};
  // Nothing to learn where the answer is never to look.
  return {poll == "fixed" || max_us == 0 ? Kind::kFixed : Kind::kAdaptive, most};
}

EarlyExit usage_error(const Diagnostics& diagnostics) {
  return {diagnostics.to_lines(), kExitUsage};
}

/// What was said, before it is put together.
struct CommandLine {
  using Setting = std::pair<std::string, std::string>;
  std::vector<Setting> disk_values;
  std::vector<Setting> process_values;  ///< win over the file
  std::vector<std::string> disks;       ///< one text for each --disk
  std::string config_path;
  std::vector<std::string> ask;
  std::string takeover;
  bool prints_capabilities = false;
  std::vector<std::string> unexpected;  ///< what is no option, and what follows it
};

template <typename Setting>
void add_settings(CLI::App& app, std::span<const Setting> settings,
                  std::vector<CommandLine::Setting>& command_line) {
  for (const Setting& setting : settings) {
    const std::string name = setting.name;
    const auto add = [&command_line, name](const std::string& value) {
      command_line.emplace_back(name, value);
    };
    if (setting.is_switch) {
      app.add_flag_callback("--" + name, [add] { add("on"); }, setting.help);
    } else {
      app.add_option_function<std::string>("--" + name, add, setting.help)->type_name(setting.type);
    }
  }
}

void add_other_options(CLI::App& app, CommandLine& command_line) {
  app.add_option("--disk", command_line.disks,
                 "one of several disks: the options above without their dashes, as in "
                 "socket-path=PATH,blk-file=IMAGE,read-only=on; once for each disk")
      ->type_name("KEY=VALUE,...")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->expected(1)
      ->allow_extra_args(false);
  app.add_option("--config", command_line.config_path,
                 "file in TOML with a [[disk]] for each disk and, above them, the options below, "
                 "from --threads to --verbose, without their dashes")
      ->type_name("PATH");
  add_settings(app, process_settings(), command_line.process_values);
  app.add_option("--takeover", command_line.takeover,
                 "take the place of the process whose --control is this path, without an "
                 "interruption for its guests: its disks, sockets, front-ends and options; only "
                 "--threads, --cpus, --poll, --poll-max-us, --sqpoll, --sqpoll-cpus and --verbose "
                 "go with it, and win over what that process was told")
      ->type_name("PATH");
  app.add_option("--ask", command_line.ask,
                 "does not serve, but sends a command to the process whose --control is PATH and "
                 "prints the answer; the command help lists them")
      ->option_text("PATH COMMAND [DISK]")
      ->expected(2, 3);
  app.add_flag("--print-capabilities", command_line.prints_capabilities,
               "print what this backend can do as JSON and exit");
}

/// What is no option, each with the one that may have been meant.
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

/// Of the file, then of the command line.
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
  // What is missing may be what was mistyped.
  if (command_line.unexpected.empty()) {
    for (const DiskOptions& disk : options.disks) check_disk(disk, diagnostics);
  }
  name_disks(options.disks);
}

/// What --takeover leaves no room for, because it comes from the other process.
void check_takeover(const CommandLine& command_line, Diagnostics& diagnostics) {
  const auto reject = [&](std::string_view option) {
    diagnostics.add(fmt::format("--{}", option),
                    "does not go with --takeover, which brings disks and control socket of the "
                    "process whose place is taken: leave it out");
  };
  for (const auto& [name, value] : command_line.disk_values) reject(name);
  if (!command_line.disks.empty()) reject("disk");
  if (!command_line.config_path.empty()) reject("config");
  for (const auto& [name, value] : command_line.process_values) {
    if (name == "control" || name == "strict") reject(name);
  }
}

/// Whether two disks write to what the other uses, as far as their paths tell.
bool share_an_image(const DiskOptions& a, const DiskOptions& b) {
  return !a.image.empty() && a.image == b.image && !a.image.starts_with("null:") &&
         (!a.is_read_only || !b.is_read_only);
}

/// Whose a setting is that two disks must not share.
std::string describe_owner(const DiskOptions& disk, std::string_view setting) {
  return fmt::format("also that of disk {} ({})", disk.name, disk.origin_of(setting));
}

/// Numbers of descriptors are compared where they are of one process: in a takeover those of disks
/// that are served are the other process's.
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

/// On how many processors the threads may run.
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
  // Queues that would share a processor share a thread: it looks at both at once, and neither waits
  // for the other's turn.
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
  read_threads(as_given, options);
  options.control_path = as_given.control_path;
  options.is_strict = as_given.is_strict;
  options.is_verbose = as_given.is_verbose;
}

std::expected<Options, EarlyExit> parse_options(int argc, const char* const* argv) {
  CommandLine command_line;
  CLI::App app(
      "Serves disk images to virtual machines as vhost-user-blk devices.\n"
      "Runs in the foreground until SIGTERM or SIGINT; the front-ends (QEMU, libvirt, "
      "cloud-hypervisor) may leave and come back.\n"
      "Exit status: 0 after it was asked to stop, 1 for a failure (with --ask and --takeover: the "
      "other process refused or failed), 2 for what cannot be tried: wrong options, no disk that "
      "can be served, nobody at the control socket.",
      "guestio-blk");
  app.set_version_flag("--version", std::string("guestio-blk ") + kVersion);
  app.allow_extras();
  add_settings(app, disk_settings(), command_line.disk_values);
  add_other_options(app, command_line);
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
