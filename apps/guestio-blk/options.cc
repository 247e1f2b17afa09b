// SPDX-License-Identifier: MIT
#include "options.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <chrono>

#include "guestio/base/version.h"

namespace guestio::app {

namespace {

/// What a management layer asks for before it starts a backend (QEMU, docs/interop/vhost-user.rst,
/// "Backend program conventions").
std::string capabilities() {
  return nlohmann::json{{"type", "block"}, {"features", {"read-only", "blk-file"}}}.dump(2) + "\n";
}

/// CLI11 knows suffixes of its own; ours are powers of 1024 everywhere.
struct SizeOption {
  std::string text;
  ByteCount* to;

  [[nodiscard]] bool read() const {
    if (text.empty()) return true;
    const auto size = parse_byte_count(text);
    if (size) *to = *size;
    return size.has_value();
  }
};

vhost::PollPolicy to_policy(const std::string& poll, std::uint32_t most_us) {
  using Kind = vhost::PollPolicy::Kind;
  const std::chrono::microseconds most(most_us);
  if (poll == "always") return {Kind::kAlways, most};
  // Nothing to learn where the answer is never to look.
  return {poll == "fixed" || most_us == 0 ? Kind::kFixed : Kind::kAdaptive, most};
}

FixedBuffers to_fixed_buffers(const std::string& text) {
  if (text == "on") return FixedBuffers::kOn;
  return text == "off" ? FixedBuffers::kOff : FixedBuffers::kAuto;
}

blk::OnError to_on_error(const std::string& text) {
  if (text == "retry") return blk::OnError::kRetry;
  if (text == "hold") return blk::OnError::kHold;
  return text == "enospc" ? blk::OnError::kEnospc : blk::OnError::kReport;
}

EarlyExit usage_error(const std::string& text) {
  return {fmt::format("guestio-blk: {} (--help shows the options)\n", text), kExitUsage};
}

std::optional<EarlyExit> check(const Options& options) {
  if (options.socket_path.empty() == !options.socket_fd.has_value()) {
    return usage_error("one of --socket-path and --fd is needed");
  }
  if (options.image.empty()) return usage_error("--blk-file is needed");
  if (options.queues == 0 || options.queues > kMostQueues) {
    return usage_error(fmt::format("--num-queues takes 1 to {}", kMostQueues));
  }
  constexpr std::uint64_t kLeastBounce = 64 << 10;
  if (options.bounce_limit.raw() < kLeastBounce) {
    return usage_error("--bounce-limit takes at least 64k");
  }
  if (options.threads > kMostThreads) {
    return usage_error(fmt::format("--threads takes 1 to {}", kMostThreads));
  }
  if (options.serial.size() > 20) return usage_error("--serial takes up to 20 bytes");
  return std::nullopt;
}

}  // namespace

std::expected<Options, EarlyExit> parse_options(int argc, const char* const* argv) {
  Options options;
  bool wants_capabilities = false;
  SizeOption block_size{{}, &options.block_size};
  SizeOption bounce_limit{{}, &options.bounce_limit};
  int fd = -1;
  std::optional<std::size_t> threads;
  std::string poll = "adaptive";
  std::string on_error = "report";
  std::uint32_t poll_max_us = static_cast<std::uint32_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(options.polling.most).count());

  CLI::App app(
      "Serves a disk image to virtual machines as a vhost-user-blk device.\n"
      "Runs in the foreground until SIGTERM or SIGINT; the front-end (QEMU, libvirt, "
      "cloud-hypervisor) may leave and come back.",
      "guestio-blk");
  app.set_version_flag("--version", std::string("guestio-blk ") + kVersion);
  auto* const path = app.add_option("--socket-path", options.socket_path,
                                    "unix socket to listen at; a stale one is replaced");
  auto* const fd_option =
      app.add_option("--fd", fd, "socket handed down by the parent, listening or connected")
          ->check(CLI::NonNegativeNumber);
  path->excludes(fd_option);
  app.add_option("--blk-file", options.image,
                 "raw image file or block device to serve; null:SIZE is a disk that does nothing, "
                 "to measure the way to it");
  app.add_flag("--read-only", options.is_read_only, "refuse writes; share the image with readers");
  app.add_option("--num-queues", options.queues, "virtqueues offered")->capture_default_str();
  app.add_option("--threads", threads, "threads that the queues share (default: one for each)")
      ->check(CLI::PositiveNumber);
  app.add_option("--cpus", options.cpus, "processors that the threads are pinned to, in turn: 2,3")
      ->delimiter(',')
      ->check(CLI::NonNegativeNumber);
  app.add_option("--poll-max-us", poll_max_us,
                 "longest time that a thread looks for more work before it sleeps; 0: never")
      ->capture_default_str()
      ->check(CLI::Range(0U, kMostPollUs));
  app.add_option("--poll", poll,
                 "look so long while that pays (adaptive), each time (fixed), or without end while "
                 "a guest is there (always)")
      ->capture_default_str()
      ->check(CLI::IsMember({"adaptive", "fixed", "always"}));
  app.add_option("--serial", options.serial,
                 "what the guest reads as the disk's ID, up to 20 bytes (default: made from the "
                 "image's path)");
  app.add_option("--on-error", on_error,
                 "requests that the disk fails: tell the guest (report), ask the disk again for "
                 "some seconds (retry), or until it takes them (hold; enospc: for want of space "
                 "only). SIGUSR1: again now; SIGUSR2: tell the guest now")
      ->capture_default_str()
      ->check(CLI::IsMember({"report", "retry", "hold", "enospc"}));
  app.add_option("--block-size", block_size.text,
                 "logical block size shown to the guest: 512 to 4096 (default 512)");
  app.add_flag("--buffered", options.is_buffered,
               "use the host's page cache instead of direct I/O");
  app.add_option("--bounce-limit", bounce_limit.text,
                 "most memory a queue uses for data that direct I/O cannot take as it lies "
                 "(default 8M)");
  app.add_option_function<std::string>(
         "--packed-ring",
         [&options](const std::string& text) { options.has_packed_ring = text == "on"; },
         "offer packed rings: on or off (default on)")
      ->check(CLI::IsMember({"on", "off"}));
  app.add_option_function<std::string>(
         "--fixed-buffers",
         [&options](const std::string& text) { options.fixed_buffers = to_fixed_buffers(text); },
         "register guest memory with the kernel, which saves time for each request (on): only for "
         "guests that never give memory back while they run, because data for discarded pages "
         "would be lost; what is safe for any guest (auto, the default: bounce memory); or nothing "
         "(off)")
      ->check(CLI::IsMember({"auto", "on", "off"}));
  app.add_flag("--verbose", options.is_verbose, "log more");
  app.add_flag("--print-capabilities", wants_capabilities,
               "print what this backend can do as JSON and exit");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return std::unexpected(EarlyExit{app.help(), 0});
  } catch (const CLI::CallForVersion&) {
    return std::unexpected(EarlyExit{app.version() + "\n", 0});
  } catch (const CLI::ParseError& error) {
    return std::unexpected(usage_error(error.what()));
  }
  if (wants_capabilities) return std::unexpected(EarlyExit{capabilities(), 0});
  if (!block_size.read()) {
    return std::unexpected(usage_error("--block-size takes a size such as 4096 or 4k"));
  }
  if (!bounce_limit.read()) {
    return std::unexpected(usage_error("--bounce-limit takes a size such as 8M"));
  }
  if (fd >= 0) options.socket_fd = fd;
  options.polling = to_policy(poll, poll_max_us);
  options.on_error = to_on_error(on_error);
  options.threads = threads.value_or(options.queues);
  if (auto exit = check(options)) return std::unexpected(*exit);
  return options;
}

}  // namespace guestio::app
