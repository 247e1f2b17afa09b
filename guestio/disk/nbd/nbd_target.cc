// SPDX-License-Identifier: MIT
#include "guestio/disk/nbd/nbd_target.h"

#include <fmt/format.h>
#include <libnbd.h>
#include <sys/un.h>

#include <charconv>
#include <optional>
#include <string_view>
#include <utility>

namespace guestio::disk {

namespace {

constexpr std::size_t kMaxExportName = 4096;  // of the protocol
constexpr unsigned kMaxTimeoutSeconds = 24 * 3600;

std::unexpected<OpenFailure> refuse(std::string why) {
  return std::unexpected(
      OpenFailure{Error::make(ErrorKind::kInvalidArgument, "NBD URI"), std::move(why)});
}

std::unexpected<OpenFailure> refuse_setting(std::string_view name, std::string_view why) {
  return std::unexpected(
      OpenFailure{Error::make(ErrorKind::kInvalidArgument, "setting of an NBD disk"),
                  fmt::format("{} {}", name, why)});
}

std::optional<unsigned> digit_of(char letter) {
  if (letter >= '0' && letter <= '9') return static_cast<unsigned>(letter - '0');
  if (letter >= 'a' && letter <= 'f') return static_cast<unsigned>(letter - 'a' + 10);
  if (letter >= 'A' && letter <= 'F') return static_cast<unsigned>(letter - 'A' + 10);
  return std::nullopt;
}

/// Undoes percent encoding. Nothing for an incomplete sequence or an encoded zero byte.
std::optional<std::string> decode(std::string_view text) {
  std::string decoded;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded.push_back(text[i]);
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    const auto high = digit_of(text[i + 1]);
    const auto low = digit_of(text[i + 2]);
    if (!high || !low || (*high | *low) == 0) return std::nullopt;
    decoded.push_back(static_cast<char>(*high * 16 + *low));
    i += 2;
  }
  return decoded;
}

std::optional<unsigned> parse_number(std::string_view text) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

struct UriParts {
  std::string_view authority;
  std::string_view path;  ///< after its first slash
  std::string_view query;
};

OpenResult<UriParts> split(std::string_view uri) {
  std::string_view rest = after_scheme(uri);
  if (!rest.starts_with("//")) return refuse("the scheme is not followed by '//'");
  rest.remove_prefix(2);
  if (rest.find('#') != std::string_view::npos) return refuse("'#' in the URI; write %23");
  UriParts parts;
  if (const auto question = rest.find('?'); question != std::string_view::npos) {
    parts.query = rest.substr(question + 1);
    rest = rest.substr(0, question);
  }
  const auto slash = rest.find('/');
  parts.authority = rest.substr(0, slash);
  if (slash != std::string_view::npos) parts.path = rest.substr(slash + 1);
  return parts;
}

/// [USER@]HOST[:PORT]
OpenResult<void> take_authority(std::string_view authority, NbdTarget& target) {
  if (const auto at = authority.rfind('@'); at != std::string_view::npos) {
    const auto user = decode(authority.substr(0, at));
    if (!user || user->find(':') != std::string::npos) {
      return refuse("the part before '@' is not a user name");
    }
    target.tls_username = *user;
    authority.remove_prefix(at + 1);
  }
  std::string_view host = authority;
  std::string_view port;
  if (authority.starts_with('[')) {
    const auto end = authority.find(']');
    if (end == std::string_view::npos) return refuse("'[' without ']'");
    host = authority.substr(1, end - 1);
    const auto rest = authority.substr(end + 1);
    if (!rest.empty() && rest.front() != ':') return refuse("text between ']' and '/'");
    if (!rest.empty()) port = rest.substr(1);
  } else if (const auto colon = authority.find(':'); colon != std::string_view::npos) {
    host = authority.substr(0, colon);
    port = authority.substr(colon + 1);
  }
  const auto name = decode(host);
  if (!name) return refuse("host name");
  target.host = *name;
  if (port.empty()) port = "10809";
  const auto number = parse_number(port);
  if (!number || *number == 0 || *number > 65535) return refuse("port");
  target.port = port;
  return {};
}

/// Returns whether there is such a setting.
bool take_tls_setting(std::string_view name, const std::string& value, NbdTarget& target) {
  if (name == "tls-psk-file") {
    target.tls_psk_file = value;
  } else if (name == "tls-certificates") {
    target.tls_certificates = value;
  } else if (name == "tls-username") {
    target.tls_username = value;
  } else if (name == "tls-hostname") {
    target.tls_hostname = value;
  } else {
    return false;
  }
  return true;
}

OpenResult<void> take_query(std::string_view query, NbdTarget& target) {
  while (!query.empty()) {
    const auto end = query.find('&');
    const std::string_view parameter = query.substr(0, end);
    query = end == std::string_view::npos ? std::string_view() : query.substr(end + 1);
    const auto equals = parameter.find('=');
    const std::string_view name = parameter.substr(0, equals);
    const auto value =
        equals == std::string_view::npos ? std::nullopt : decode(parameter.substr(equals + 1));
    if (!value || value->empty())
      return refuse(fmt::format("parameter '{}' without a value", name));
    if (name == "socket") {
      target.socket_path = *value;
    } else if (!take_tls_setting(name, *value, target)) {
      return refuse(fmt::format("unknown parameter '{}'", name));
    }
  }
  return {};
}

OpenResult<void> take_settings(const OpenOptions& options, NbdTarget& target) {
  for (const auto& [name, value] : options.settings) {
    if (name == "io-timeout") {
      const auto seconds = parse_number(value);
      if (!seconds || *seconds == 0 || *seconds > kMaxTimeoutSeconds) {
        return refuse_setting(name, "is not a number of seconds from 1 to 86400");
      }
      target.io_timeout = std::chrono::seconds(*seconds);
    } else if (name == "unflushed-limit") {
      const auto bytes = parse_number(value);
      if (!bytes) return refuse_setting(name, "is not a number of bytes");
      target.unflushed_limit = ByteCount(*bytes);
    } else if (value.empty()) {
      return refuse_setting(name, "has no value");
    } else if (!take_tls_setting(name, value, target)) {
      return refuse_setting(name, "is unknown");
    }
  }
  return {};
}

/// Before 1.20.2 libnbd accepts any certificate over a Unix socket (CVE-2024-7383), and before 1.22
/// it cannot be told a name. The function of 1.22 shows both.
OpenResult<void> check_tls(const NbdTarget& target) {
  const bool has_settings = !target.tls_psk_file.empty() || !target.tls_certificates.empty() ||
                            !target.tls_username.empty() || !target.tls_hostname.empty();
  if (!target.uses_tls) {
    if (has_settings) return refuse_setting("tls-…", "is given without TLS: the scheme is nbds");
    return {};
  }
  const bool has_both = !target.tls_psk_file.empty() && !target.tls_certificates.empty();
  if (has_both) return refuse_setting("tls-psk-file", "excludes tls-certificates");
  if (target.tls_psk_file.empty() && target.tls_certificates.empty()) {
    return refuse_setting("tls-certificates",
                          "or tls-psk-file is missing: nothing would "
                          "authenticate the server");
  }
#ifndef LIBNBD_HAVE_NBD_SET_TLS_HOSTNAME
  if (target.is_unix() && !target.tls_certificates.empty()) {
    return std::unexpected(
        OpenFailure{Error::make(ErrorKind::kUnsupported, "tls-certificates over a Unix socket"),
                    "this libnbd would accept any certificate; set tls-psk-file"});
  }
  if (!target.tls_hostname.empty()) {
    return std::unexpected(
        OpenFailure{Error::make(ErrorKind::kUnsupported, "tls-hostname"),
                    "this libnbd checks the certificate for the host of the URI only"});
  }
#endif
  return {};
}

OpenResult<void> check_address(const NbdTarget& target, bool is_unix) {
  if (target.export_name.size() > kMaxExportName) return refuse("export name too long");
  if (!is_unix) {
    if (!target.socket_path.empty()) return refuse("'socket' in a URI of a TCP server");
    if (target.host.empty()) return refuse("no host");
    return {};
  }
  if (!target.host.empty()) return refuse("a host in a URI of a Unix socket");
  if (target.socket_path.empty()) return refuse("no parameter 'socket'");
  if (target.socket_path.size() >= sizeof sockaddr_un::sun_path) {
    return refuse("socket path longer than 107 bytes");
  }
  return {};
}

}  // namespace

std::string NbdTarget::to_string() const {
  const char* const scheme = uses_tls ? "nbds" : "nbd";
  if (is_unix()) return fmt::format("{}+unix:///{}?socket={}", scheme, export_name, socket_path);
  const bool is_ipv6 = host.find(':') != std::string::npos;
  return fmt::format("{}://{}{}{}:{}/{}", scheme, is_ipv6 ? "[" : "", host, is_ipv6 ? "]" : "",
                     port, export_name);
}

OpenResult<NbdTarget> parse_nbd_target(const OpenOptions& options) {
  const std::string_view scheme = scheme_of(options.uri).value_or("");
  NbdTarget target;
  target.uses_tls = scheme.starts_with("nbds");
  const bool is_unix = scheme.ends_with("+unix");
  if (scheme != "nbd" && scheme != "nbds" && scheme != "nbd+unix" && scheme != "nbds+unix") {
    return refuse("the scheme is none of nbd, nbds, nbd+unix, nbds+unix");
  }
  const auto parts = split(options.uri);
  if (!parts) return std::unexpected(parts.error());
  if (auto taken = take_authority(parts->authority, target); !taken) {
    return std::unexpected(taken.error());
  }
  auto name = decode(parts->path);
  if (!name) return refuse("export name");
  target.export_name = std::move(*name);
  if (auto taken = take_query(parts->query, target); !taken) return std::unexpected(taken.error());
  if (auto taken = take_settings(options, target); !taken) return std::unexpected(taken.error());
  if (auto valid = check_address(target, is_unix); !valid) return std::unexpected(valid.error());
  if (auto valid = check_tls(target); !valid) return std::unexpected(valid.error());
  return target;
}

}  // namespace guestio::disk
