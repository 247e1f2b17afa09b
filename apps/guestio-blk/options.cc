// SPDX-License-Identifier: MIT
#include "options.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <set>
#include <thread>

#include "config_file.h"
#include "guestio/base/version.h"

namespace guestio::app {

namespace {

/// What a management layer asks for before it starts a backend (QEMU, docs/interop/vhost-user.rst,
/// "Backend program conventions").
std::string capabilities() {
  return nlohmann::json{{"type", "block"}, {"features", {"read-only", "blk-file"}}}.dump(2) + "\n";
}

vhost::PollPolicy to_policy(const std::string& poll, std::uint32_t most_us) {
  using Kind = vhost::PollPolicy::Kind;
  const std::chrono::microseconds most(most_us);
  if (poll == "always") return {Kind::kAlways, most};
  // Nothing to learn where the answer is never to look.
  return {poll == "fixed" || most_us == 0 ? Kind::kFixed : Kind::kAdaptive, most};
}

EarlyExit usage_error(const std::string& text) {
  return {fmt::format("guestio-blk: {} (--help shows the options)\n", text), kExitUsage};
}

/// What was said, before it is put together.
struct Words {
  std::vector<std::pair<std::string, std::string>> of_one_disk;
  std::vector<std::string> disks;  ///< one text for each --disk
  std::string config_path;
  std::vector<std::string> ask;
  std::string takeover;
  bool wants_capabilities = false;
  ConfigFile rest;  ///< what a file may say as well; it wins over the file
};

void add_disk_options(CLI::App& app, Words& words) {
  for (const DiskSetting& setting : disk_settings()) {
    const std::string name = setting.name;
    const auto add = [&words, name](const std::string& value) {
      words.of_one_disk.emplace_back(name, value);
    };
    if (setting.is_switch) {
      app.add_flag_callback("--" + name, [add] { add("on"); }, setting.help);
    } else {
      app.add_option_function<std::string>("--" + name, add, setting.help);
    }
  }
}

void add_other_options(CLI::App& app, Words& words) {
  app.add_option("--disk", words.disks,
                 "one of several disks: the options above without their dashes, as in "
                 "socket-path=PATH,blk-file=IMAGE,read-only=on; once for each disk")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->expected(1)
      ->allow_extra_args(false);
  app.add_option("--config", words.config_path,
                 "file in TOML with a [[disk]] for each disk, and with threads, cpus, poll, "
                 "poll-max-us, sqpoll, sqpoll-cpus, control and verbose");
  app.add_option("--threads", words.rest.threads,
                 "threads that the queues of all disks share in turn (default: one for each queue, "
                 "but no more than there are processors for them)");
  app.add_option("--cpus", words.rest.cpus,
                 "processors that the threads are pinned to, in turn: 2,3")
      ->delimiter(',')
      ->check(CLI::NonNegativeNumber);
  app.add_option("--poll-max-us", words.rest.poll_max_us,
                 "longest time that a thread looks for more work before it sleeps; 0: never "
                 "(default 32)");
  app.add_option("--poll", words.rest.poll,
                 "look so long while that pays (adaptive, the default), each time (fixed), or "
                 "without end while a guest is there (always)");
  app.add_flag("--sqpoll", words.rest.has_submission_threads,
               "have a thread of the kernel's submit I/O, one for each of ours: saves system calls "
               "and costs a processor while it looks");
  app.add_option("--sqpoll-cpus", words.rest.submission_cpus,
                 "processors that the kernel's threads are pinned to, in turn")
      ->delimiter(',')
      ->check(CLI::NonNegativeNumber);
  app.add_option("--control", words.rest.control_path,
                 "unix socket for commands: statistics, resize, ... (JSON, a line each)");
  app.add_option("--takeover", words.takeover,
                 "take the place of the process whose --control is this path, without an "
                 "interruption for its guests: its disks, sockets, front-ends and options; only "
                 "--threads, --cpus, --poll, --poll-max-us, --sqpoll, --sqpoll-cpus and --verbose "
                 "go with it, and win over what that process was told");
  app.add_option("--ask", words.ask,
                 "PATH COMMAND [DISK]: does not serve, but sends a command to the process whose "
                 "--control is PATH and prints the answer; the command help lists them")
      ->expected(2, 3);
  app.add_flag("--verbose", words.rest.is_verbose, "log more");
  app.add_flag("--print-capabilities", words.wants_capabilities,
               "print what this backend can do as JSON and exit");
}

Complaint read_one_disk(const Words& words, Options& options) {
  if (words.of_one_disk.empty() && !options.disks.empty()) return {};
  if (!options.disks.empty()) {
    return std::unexpected(fmt::format("--{} belongs into --disk, or under [[disk]]",
                                       words.of_one_disk.front().first));
  }
  DiskOptions disk;
  for (const auto& [name, value] : words.of_one_disk) {
    if (auto set = set_disk_option(disk, name, value); !set) {
      return std::unexpected("--" + set.error());
    }
  }
  if (disk.socket_path.empty() == !disk.socket_fd.has_value()) {
    return std::unexpected("one of --socket-path and --fd is needed");
  }
  if (disk.image.empty()) return std::unexpected("--blk-file is needed");
  options.disks.push_back(std::move(disk));
  return {};
}

/// The file's settings where the command line has none.
Complaint read_config(Words& words, Options& options) {
  if (words.config_path.empty()) return {};
  auto file = read_config_file(words.config_path);
  if (!file) return std::unexpected(file.error());
  ConfigFile& said = words.rest;
  options.disks = std::move(file->disks);
  if (!said.threads) said.threads = file->threads;
  if (!said.cpus) said.cpus = file->cpus;
  if (!said.poll) said.poll = file->poll;
  if (!said.poll_max_us) said.poll_max_us = file->poll_max_us;
  said.has_submission_threads |= file->has_submission_threads;
  if (!said.submission_cpus) said.submission_cpus = file->submission_cpus;
  if (said.control_path.empty()) said.control_path = file->control_path;
  said.is_verbose |= file->is_verbose;
  return {};
}

Complaint read_disks(Words& words, Options& options) {
  if (auto read = read_config(words, options); !read) return read;
  for (const std::string& text : words.disks) {
    auto disk = parse_disk(text);
    if (!disk) return std::unexpected("--disk: " + disk.error());
    if (auto checked = check_disk(*disk); !checked) {
      return std::unexpected(fmt::format("--disk {}: {}", text, checked.error()));
    }
    options.disks.push_back(std::move(*disk));
  }
  if (auto read = read_one_disk(words, options); !read) return read;
  for (std::size_t i = 0; i < options.disks.size(); ++i) {
    if (!options.disks[i].name.empty()) continue;
    auto named = set_disk_option(options.disks[i], "name", fmt::format("disk{}", i));
    if (!named) return named;
  }
  return {};
}

/// What --takeover leaves no room for, because it comes from the other process.
Complaint check_takeover(const Words& words) {
  const auto complain = [](std::string_view option) {
    return std::unexpected(fmt::format(
        "--takeover brings the disks of the process whose place is taken: --{} does not go with it",
        option));
  };
  if (!words.of_one_disk.empty()) return complain(words.of_one_disk.front().first);
  if (!words.disks.empty()) return complain("disk");
  if (!words.config_path.empty()) return complain("config");
  if (!words.rest.control_path.empty()) return complain("control");
  return {};
}

/// Whether two disks write to what the other uses, as far as their paths tell.
bool share_an_image(const DiskOptions& a, const DiskOptions& b) {
  return a.image == b.image && !a.image.starts_with("null:") &&
         (!a.is_read_only || !b.is_read_only);
}

Complaint check_together(const std::vector<DiskOptions>& disks, const std::string& control) {
  if (disks.size() > kMostDisks) {
    return std::unexpected(fmt::format("there are at most {} disks in a process", kMostDisks));
  }
  for (auto one = disks.begin(); one != disks.end(); ++one) {
    if (one->place() == control) {
      return std::unexpected(
          fmt::format("{} and the control socket are both at {}", one->name, control));
    }
    for (auto other = std::next(one); other != disks.end(); ++other) {
      if (one->name == other->name) {
        return std::unexpected(fmt::format("two disks are called {}", one->name));
      }
      if (one->place() == other->place()) {
        return std::unexpected(
            fmt::format("{} and {} are both at {}", one->name, other->name, one->place()));
      }
      if (share_an_image(*one, *other)) {
        return std::unexpected(fmt::format("{} and {} both serve {}, one of them for writing",
                                           one->name, other->name, one->image));
      }
    }
  }
  return {};
}

/// On how many processors the threads may run.
std::size_t count_processors(const std::vector<int>& pinned_to) {
  if (!pinned_to.empty()) return std::set<int>(pinned_to.begin(), pinned_to.end()).size();
  cpu_set_t allowed;
  if (::sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
    return static_cast<std::size_t>(CPU_COUNT(&allowed));
  }
  // A machine with more of them than such a set has room for.
  return std::max<std::size_t>(std::thread::hardware_concurrency(), 1);
}

Complaint read_threads(const ConfigFile& said, Options& options) {
  if (said.threads && (*said.threads == 0 || *said.threads > kMostThreads)) {
    return std::unexpected(fmt::format("--threads takes 1 to {}", kMostThreads));
  }
  const auto queues =
      std::accumulate(options.disks.begin(), options.disks.end(), std::size_t{0},
                      [](std::size_t sum, const DiskOptions& disk) { return sum + disk.queues; });
  options.cpus = said.cpus.value_or(std::vector<int>());
  // Queues that would share a processor share a thread: it looks at both at once, and neither waits
  // for the other's turn.
  options.threads =
      said.threads.value_or(std::min({queues, count_processors(options.cpus), kMostThreads}));
  options.has_submission_threads = said.has_submission_threads;
  options.submission_cpus = said.submission_cpus.value_or(std::vector<int>());
  const std::string poll = said.poll.value_or("adaptive");
  if (poll != "adaptive" && poll != "fixed" && poll != "always") {
    return std::unexpected("--poll takes adaptive, fixed or always");
  }
  const auto usual = std::chrono::duration_cast<std::chrono::microseconds>(options.polling.most);
  const std::uint32_t most = said.poll_max_us.value_or(static_cast<std::uint32_t>(usual.count()));
  if (most > kMostPollUs) {
    return std::unexpected(fmt::format("--poll-max-us takes 0 to {}", kMostPollUs));
  }
  options.polling = to_policy(poll, most);
  return {};
}

std::expected<Options, std::string> put_together(Words& words) {
  Options options;
  if (!words.takeover.empty()) {
    if (auto checked = check_takeover(words); !checked) return std::unexpected(checked.error());
    options.takeover = words.takeover;
    options.is_verbose = words.rest.is_verbose;
    options.said = std::move(words.rest);
    return options;
  }
  if (auto read = read_disks(words, options); !read) return std::unexpected(read.error());
  options.said = std::move(words.rest);
  if (auto completed = complete(options); !completed) return std::unexpected(completed.error());
  return options;
}

}  // namespace

Complaint complete(Options& options) {
  const ConfigFile& said = options.said;
  if (auto checked = check_together(options.disks, said.control_path); !checked) return checked;
  if (auto read = read_threads(said, options); !read) return read;
  options.control_path = said.control_path;
  options.is_verbose = said.is_verbose;
  return {};
}

std::expected<Options, EarlyExit> parse_options(int argc, const char* const* argv) {
  Words words;
  CLI::App app(
      "Serves disk images to virtual machines as vhost-user-blk devices.\n"
      "Runs in the foreground until SIGTERM or SIGINT; the front-ends (QEMU, libvirt, "
      "cloud-hypervisor) may leave and come back.",
      "guestio-blk");
  app.set_version_flag("--version", std::string("guestio-blk ") + kVersion);
  add_disk_options(app, words);
  add_other_options(app, words);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return std::unexpected(EarlyExit{app.help(), 0});
  } catch (const CLI::CallForVersion&) {
    return std::unexpected(EarlyExit{app.version() + "\n", 0});
  } catch (const CLI::ParseError& error) {
    return std::unexpected(usage_error(error.what()));
  }
  if (words.wants_capabilities) return std::unexpected(EarlyExit{capabilities(), 0});
  if (!words.ask.empty()) {
    Options options;
    options.ask = std::move(words.ask);
    return options;
  }
  auto options = put_together(words);
  if (!options) return std::unexpected(usage_error(options.error()));
  return std::move(*options);
}

}  // namespace guestio::app
