// SPDX-License-Identifier: MIT
#include "apps/guestio-load/arguments.h"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <array>
#include <string_view>

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
void add_choice(CLI::App& app, const char* name, T& to, const std::string& help) {
  app.add_option_function<std::string>(
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

void add_target(CLI::App& app, Target& target) {
  app.add_option("--socket-path", target.socket_path, "the backend's vhost-user socket")
      ->required()
      ->type_name("PATH");
  add_seconds(app, "--timeout", target.deadline,
              "give up when the backend takes longer for anything (60)");
  app.add_flag_callback(
      "--no-event-idx", [&target] { target.event_idx = false; },
      "do not negotiate the event index");
  app.add_flag_callback(
      "--no-indirect", [&target] { target.indirect = false; },
      "do not negotiate indirect descriptors");
  app.add_flag("--packed", target.packed, "use packed rings; fail when the backend has none");
}

void add_info(CLI::App& app, InfoArguments& info) {
  add_target(app, info.target);
  add_choice<kFormatChoices>(app, "--output-format", info.format, "how to print (normal)");
}

void add_run(CLI::App& app, RunArguments& run) {
  add_target(app, run.target);
  add_choice<kFormatChoices>(app, "--output-format", run.format, "how to print (normal)");
  add_choice<kReadWriteChoices>(
      app, "--rw", run.rw, "what to do (randread); whatever writes destroys what is on the disk");
  app.add_option("--rwmixread", run.read_percent, "reads in a mix, in percent (50)")
      ->type_name("N")
      ->check(between(0, 100));
  add_size(app, "--bs", run.block_size, "bytes of each request (4k)");
  app.add_option("--iodepth", run.depth, "requests in flight on each queue (1)")
      ->type_name("N")
      ->check(between(1, 32768));
  app.add_option("--numjobs,--num-queues", run.jobs,
                 "queues to drive, each with a thread of its own (1)")
      ->type_name("N")
      ->check(between(1, 256));
  app.add_option("--queue-size", run.queue_size, "entries of each ring (as --iodepth needs)")
      ->type_name("N");
  add_seconds(app, "--runtime", run.runtime, "how long to measure (10)");
  add_seconds(app, "--ramp-time", run.ramp, "how long to run before measuring (0)");
  add_size(app, "--size", run.size, "bytes of the disk to use (up to its end)");
  add_size(app, "--offset", run.offset, "where on the disk to begin (0)");
  app.add_option("--seed", run.seed, "for the random order (1)")->type_name("N");
  add_size(app, "--buffer-offset", run.buffer_offset,
           "distance of data buffers from a page boundary (0)");
  app.add_option("--segments", run.segments, "descriptors for the data of each request (1)")
      ->type_name("N")
      ->check(between(1, 32766));
  app.add_flag("--poll", run.poll,
               "look at the used ring all the time instead of sleeping until the backend calls");
}

void add_verify(CLI::App& app, VerifyArguments& verify) {
  add_target(app, verify.target);
  app.add_option("--ops", verify.operations, "requests to make at random (10000)")->type_name("N");
  app.add_option("--seed", verify.seed, "for sizes, places and layouts (1)")->type_name("N");
  app.add_option("--iodepth", verify.depth, "requests in flight on each queue (16)")
      ->type_name("N")
      ->check(between(1, 256));
  app.add_option("--numjobs,--num-queues", verify.jobs,
                 "queues to use, each with a thread of its own (1)")
      ->type_name("N")
      ->check(between(1, 256));
  add_size(app, "--size", verify.size, "bytes of the disk to use (16M, or up to its end)");
  add_size(app, "--offset", verify.offset, "where on the disk to begin (0)");
  add_size(app, "--max-bs", verify.max_request, "bytes of the largest request (256k)");
  add_choice<kLayoutChoices>(
      app, "--layout", verify.layout,
      "how requests are cut: 'simple' for backends that want header and status alone and "
      "data in aligned sectors (any)");
  app.add_flag("--reconnect", verify.reconnect,
               "go on when the backend is killed and started again; needs its in-flight record");
  app.add_flag("--strict", verify.strict,
               "fail for every breach of the specification, also for those that are only noted");
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
  app.require_subcommand(1);
  app.set_version_flag("--version", fmt::format("guestio-load {}", kVersion));
  CLI::App* const info_command = app.add_subcommand("info", "show features, limits and size");
  CLI::App* const run_command =
      app.add_subcommand("run", "measure requests a second and how long each takes");
  CLI::App* const verify_command = app.add_subcommand(
      "verify",
      "write, read, discard and compare in random ways; destroys what is on the disk, or reads "
      "only if the disk is read-only");
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
