// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/format/daemon_command.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "guestio/base/check.h"

namespace guestio::app {

std::vector<std::string> to_words(const FormatImage& image) {
  return {image.path, image.format, image.is_read_only ? "ro" : "rw",
          image.is_buffered ? "buffered" : "direct", image.key_file};
}

FormatImage from_words(const std::vector<std::string>& words) {
  GUESTIO_CHECK(words.size() == 5, "the words of an image");
  return {.path = words[0],
          .format = words[1],
          .is_read_only = words[2] == "ro",
          .is_buffered = words[3] == "buffered",
          .key_file = words[4]};
}

std::string image_node(const FormatImage& image) {
  struct stat status{};
  const bool is_device = ::stat(image.path.c_str(), &status) == 0 && S_ISBLK(status.st_mode);
  // JSON: a path may contain commas.
  nlohmann::json node = {{"driver", image.format},
                         {"node-name", "image"},
                         {"read-only", image.is_read_only},
                         {"discard", "unmap"},
                         {"cache", {{"direct", !image.is_buffered}}},
                         {"file",
                          {{"driver", is_device ? "host_device" : "file"},
                           {"filename", image.path},
                           {"aio", "io_uring"}}}};
  if (!image.key_file.empty()) node["key-secret"] = "key";
  return node.dump();
}

std::vector<std::string> daemon_command(const FormatImage& image, int socket) {
  std::vector<std::string> words = {"qemu-storage-daemon"};
  if (!image.key_file.empty()) {
    const nlohmann::json secret = {
        {"qom-type", "secret"}, {"id", "key"}, {"file", image.key_file}, {"format", "raw"}};
    words.insert(words.end(), {"--object", secret.dump()});
  }
  const nlohmann::json exported = {{"type", "nbd"},
                                   {"id", "disk"},
                                   {"node-name", "image"},
                                   {"name", kFormatExport},
                                   {"writable", !image.is_read_only}};
  words.insert(words.end(),
               {"--blockdev", image_node(image), "--nbd-server",
                fmt::format("addr.type=fd,addr.str={}", socket), "--export", exported.dump()});
  return words;
}

}  // namespace guestio::app
