// SPDX-License-Identifier: MIT
#include "apps/guestio-load/arguments.h"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <array>
#include <string_view>

#include "apps/shared/help_formatter.h"
#include "apps/shared/suggestion.h"
#include "guestio/base/version.h"
#include "guestio/virtio/layout.h"

namespace guestio::load {

namespace {

using std::chrono::milliseconds;

template <typename T>
struct Choice {
  std::string_view name;
  T value;
};

constexpr std::array kReadWriteChoices = {
    Choice{"read", ReadWrite::kRead}, Choice{"write", ReadWrite::kWrite},
    Choice{"randread", ReadWrite::kRandRead}, Choice{"randwrite", ReadWrite::kRandWrite},
    Choice{"randrw", ReadWrite::kRandRw}};
constexpr std::array kFormatChoices = {Choice{"normal", OutputFormat::kNormal},
                                       Choice{"json", OutputFormat::kJson}};
constexpr std::array kLayoutChoices = {Choice{"any", Layout::kAny},
                                       Choice{"simple", Layout::kSimple}};

template <const auto& kChoices>
std::string join_names() {
  std::string list;
  for (const auto& choice : kChoices) {
    list += fmt::format("{}{}", list.empty() ? "" : "|", choice.name);
  }
  return list;
}

template <const auto& kChoices, typename T>
CLI::Option* add_choice(CLI::App& app, const char* name, T& to, const std::string& help) {
  return app
      .add_option_function<std::string>(
          name,
          [&to, name](const std::string& text) {
            const auto found = std::ranges::find(kChoices, text, &Choice<T>::name);
            if (found == kChoices.end()) {
              throw CLI::ValidationError(
                  fmt::format("{}: '{}' is none of {}", name, text, join_names<kChoices>()));
            }
            to = found->value;
          },
          help)
      ->type_name(join_names<kChoices>());
}

template <typename T>
void add_size(CLI::App& app, const char* name, T& to, const std::string& help) {
  app.add_option_function<std::string>(
         name,
         [&to, name](const std::string& text) {
           const auto size = parse_byte_count(text);
           if (!size) {
             throw CLI::ValidationError(
                 fmt::format("{}: '{}' is no size (as in 4096, 64k, 1G)", name, text));
           }
           to = *size;
         },
         help)
      ->type_name("SIZE");
}

void add_seconds(CLI::App& app, const char* name, milliseconds& to, const std::string& help) {
  app.add_option_function<double>(
         name,
         [&to, name](const double& seconds) {
           if (!(seconds >= 0 && seconds <= 1e6)) {
             throw CLI::ValidationError(fmt::format("{}: not a number of seconds", name));
           }
           to = milliseconds(static_cast<milliseconds::rep>(seconds * 1000));
         },
         help)
      ->type_name("SECONDS");
}

CLI::Validator between(int least, int most) {
  return CLI::Range(least, most).description("");  // help stays short; a refusal says the limits
}

constexpr const char* kConnection = "Connection";
constexpr const char* kWorkload = "Workload";
constexpr const char* kMeasurement = "Measurement";
constexpr const char* kChecks = "Checks";
constexpr const char* kGeneral = "General";

void add_target(CLI::App& app, Target& target) {
  app.option_defaults()->group(kConnection);
  app.add_option("--socket-path", target.socket_path, "vhost-user socket of the backend (required)")
      ->required()
      ->option_text("PATH");
  add_seconds(app, "--timeout", target.deadline, "limit of each wait for the backend (default 60)");
  app.add_flag_callback(
      "--no-event-idx", [&target] { target.event_idx = false; },
      "do not negotiate the event index");
  app.add_flag_callback(
      "--no-indirect", [&target] { target.indirect = false; },
      "do not negotiate indirect descriptors");
  app.add_flag("--packed", target.packed, "use packed rings; fail if the backend has none");
}

/// The last options of each command.
void add_general(CLI::App& app) { app::add_help_option(app, kGeneral); }

void add_info(CLI::App& app, InfoArguments& info) {
  add_target(app, info.target);
  app.option_defaults()->group(kGeneral);
  add_choice<kFormatChoices>(app, "--output-format", info.format,
                             "format of the output (default normal)");
  add_general(app);
}

void add_run(CLI::App& app, RunArguments& run) {
  add_target(app, run.target);
  app.option_defaults()->group(kWorkload);
  add_choice<kReadWriteChoices>(app, "--rw", run.rw,
                                "read, write, randread (default), randwrite or randrw")
      ->type_name("MODE");
  app.add_option("--rwmixread", run.read_percent, "percentage of reads in randrw (default 50)")
      ->type_name("N")
      ->check(between(0, 100));
  add_size(app, "--bs", run.block_size, "bytes of each request (default 4k)");
  app.add_option("--iodepth", run.depth, "requests in flight on each queue (default 1)")
      ->type_name("N")
      ->check(between(1, 32768));
  app.add_option("--numjobs,--num-queues", run.jobs, "queues, each with a thread (default 1)")
      ->type_name("N")
      ->check(between(1, 256));
  app.add_option("--queue-size", run.queue_size, "entries of each ring (default: from --iodepth)")
      ->type_name("N");
  add_size(app, "--size", run.size, "bytes of the disk to use (default: to its end)");
  add_size(app, "--offset", run.offset, "first byte of the disk to use (default 0)");
  app.add_option("--seed", run.seed, "seed of the random order (default 1)")->type_name("N");
  add_size(app, "--buffer-offset", run.buffer_offset,
           "distance of buffers from page boundaries (default 0)");
  app.add_option("--segments", run.segments, "data descriptors of each request (default 1)")
      ->type_name("N")
      ->check(between(1, 32766));
  app.add_flag("--poll", run.poll, "poll the used ring instead of waiting for calls");
  app.option_defaults()->group(kMeasurement);
  add_seconds(app, "--runtime", run.runtime, "time to measure (default 10)");
  add_seconds(app, "--ramp-time", run.ramp, "time to run before measuring (default 0)");
  app.option_defaults()->group(kGeneral);
  add_choice<kFormatChoices>(app, "--output-format", run.format,
                             "format of the output (default normal)");
  add_general(app);
}

void add_verify(CLI::App& app, VerifyArguments& verify) {
  add_target(app, verify.target);
  app.option_defaults()->group(kWorkload);
  app.add_option("--ops", verify.operations, "number of random requests (default 10000)")
      ->type_name("N");
  app.add_option("--seed", verify.seed, "seed of sizes, offsets and layouts (default 1)")
      ->type_name("N");
  app.add_option("--iodepth", verify.depth, "requests in flight on each queue (default 16)")
      ->type_name("N")
      ->check(between(1, 256));
  app.add_option("--numjobs,--num-queues", verify.jobs, "queues, each with a thread (default 1)")
      ->type_name("N")
      ->check(between(1, 256));
  add_size(app, "--size", verify.size, "bytes of the disk to use (default: at most 16M)");
  add_size(app, "--offset", verify.offset, "first byte of the disk to use (default 0)");
  add_size(app, "--max-bs", verify.max_request, "bytes of the largest request (default 256k)");
  add_choice<kLayoutChoices>(app, "--layout", verify.layout,
                             "descriptor layouts of the requests (default any)");
  app.option_defaults()->group(kChecks);
  app.add_flag("--reconnect", verify.reconnect, "continue after restarts of the backend");
  app.add_flag("--strict", verify.strict, "fail on breaches that are otherwise only noted");
  add_general(app);
}

EarlyExit usage(const std::string& text) { return {"guestio-load: " + text + "\n", kExitUsage}; }

/// What the options of one command must be together.
std::optional<EarlyExit> check(const RunArguments& run) {
  constexpr std::uint64_t kMaximum = std::uint64_t{64} << 20;
  const std::uint64_t block = run.block_size.raw();
  if (block == 0 || block % Sector::kSize != 0 || block > kMaximum) {
    return usage("--bs: requests are multiples of 512 bytes up to 64 MiB");
  }
  if (run.segments > block / Sector::kSize) {
    return usage("--segments: a segment has 512 bytes at least");
  }
  if (run.queue_size && !virtio::is_split_queue_size(*run.queue_size)) {
    return usage("--queue-size: not a power of two up to 32768");
  }
  if (run.runtime.count() == 0) return usage("--runtime: nothing to measure in no time");
  if (run.buffer_offset.raw() > kMaximum) return usage("--buffer-offset: at most 64 MiB");
  if (run.offset.raw() % Sector::kSize != 0) return usage("--offset: not a multiple of 512");
  return std::nullopt;
}

std::optional<EarlyExit> check(const VerifyArguments& verify) {
  constexpr std::uint64_t kMaximum = std::uint64_t{4} << 20;
  const std::uint64_t largest = verify.max_request.raw();
  if (largest == 0 || largest % Sector::kSize != 0 || largest > kMaximum) {
    return usage("--max-bs: requests are multiples of 512 bytes up to 4 MiB");
  }
  if (verify.offset.raw() % Sector::kSize != 0) return usage("--offset: not a multiple of 512");
  return std::nullopt;
}

std::optional<EarlyExit> check(const InfoArguments&) { return std::nullopt; }

/// The words that are no options, each with the one that may have been meant.
std::string describe_extras(const CLI::App& app) {
  std::vector<std::string> names;
  std::string command;
  for (const CLI::App* const parsed : app.get_subcommands()) {
    command = parsed->get_name() + " ";
    for (const CLI::Option* const option : parsed->get_options()) {
      for (const std::string& name : option->get_lnames()) names.push_back(name);
    }
  }
  std::string text;
  for (const std::string& word : app.remaining(true)) {
    const std::string typed = word.substr(0, word.find('='));
    const std::string name = typed.substr(std::min(typed.find_first_not_of('-'), typed.size()));
    text += fmt::format("{}{}: not an option{}", text.empty() ? "" : ", ", typed,
                        typed.starts_with('-') ? app::suggest(name, names, "--") : "");
  }
  return fmt::format("{} ({}--help shows all)", text, command);
}

/// The first line of what went wrong.
std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

}  // namespace

std::string_view to_text(ReadWrite rw) noexcept {
  return std::ranges::find(kReadWriteChoices, rw, &Choice<ReadWrite>::value)->name;
}

std::expected<Arguments, EarlyExit> parse_arguments(int count, const char* const* values) {
  InfoArguments info;
  RunArguments run;
  VerifyArguments verify;
  CLI::App app("Shows, loads and verifies any vhost-user-blk backend.", "guestio-load");
  app.formatter(std::make_shared<app::HelpFormatter>());
  app.require_subcommand(1);
  app.set_version_flag("--version", fmt::format("guestio-load {}", kVersion),
                       "print the version and exit")
      ->group(kGeneral);
  add_general(app);
  CLI::App* const info_command = app.add_subcommand("info", "show features, limits and size");
  CLI::App* const run_command =
      app.add_subcommand("run", "measure IOPS and latency; writes destroy the data");
  CLI::App* const verify_command =
      app.add_subcommand("verify", "write, read, discard and compare; destroys the data");
  add_info(*info_command, info);
  add_run(*run_command, run);
  add_verify(*verify_command, verify);

  // CLI11 reports with exceptions; they end here.
  try {
    app.parse(count, values);
  } catch (const CLI::CallForHelp&) {
    return std::unexpected(EarlyExit{app.help(), 0});
  } catch (const CLI::CallForVersion& version) {
    return std::unexpected(EarlyExit{std::string(version.what()) + "\n", 0});
  } catch (const CLI::ExtrasError&) {
    return std::unexpected(usage(describe_extras(app)));
  } catch (const CLI::ParseError& error) {
    return std::unexpected(usage(first_line(error.what())));
  }
  const auto checked = [](const auto& arguments) -> std::expected<Arguments, EarlyExit> {
    const auto wrong = check(arguments);
    if (wrong) return std::unexpected(*wrong);
    return arguments;
  };
  if (info_command->parsed()) return checked(info);
  if (run_command->parsed()) return checked(run);
  return checked(verify);
}

}  // namespace guestio::load
