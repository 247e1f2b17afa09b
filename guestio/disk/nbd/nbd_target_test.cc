// SPDX-License-Identifier: MIT
#include "guestio/disk/nbd/nbd_target.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

namespace guestio::disk {
namespace {

using Settings = std::map<std::string, std::string, std::less<>>;

OpenResult<NbdTarget> parse(const std::string& uri, const Settings& settings = {}) {
  OpenOptions options;
  options.uri = uri;
  options.settings = settings;
  return parse_nbd_target(options);
}
std::string refusal_of(const std::string& uri, const Settings& settings = {}) {
  const auto target = parse(uri, settings);
  return target ? "accepted" : target.error().to_string();
}

TEST(NbdTarget, ATcpUriNamesHostPortAndExport) {
  const auto target = parse("nbd://server.example:1234/a/b%20c");
  ASSERT_TRUE(target.has_value()) << target.error().to_string();
  EXPECT_FALSE(target->is_unix());
  EXPECT_EQ(target->host, "server.example");
  EXPECT_EQ(target->port, "1234");
  EXPECT_EQ(target->export_name, "a/b c");
  EXPECT_FALSE(target->uses_tls);
  EXPECT_EQ(target->io_timeout, std::chrono::seconds(30));
}

TEST(NbdTarget, PortAndExportHaveDefaults) {
  for (const char* const uri : {"nbd://server", "nbd://server/", "nbd://server:/"}) {
    const auto target = parse(uri);
    ASSERT_TRUE(target.has_value()) << uri;
    EXPECT_EQ(target->port, "10809");
    EXPECT_EQ(target->export_name, "");
  }
}

TEST(NbdTarget, AnIpv6AddressStandsInBrackets) {
  const auto target = parse("nbd://[2001:db8::1]:99/x");
  ASSERT_TRUE(target.has_value());
  EXPECT_EQ(target->host, "2001:db8::1");
  EXPECT_EQ(target->port, "99");
  EXPECT_EQ(target->to_string(), "nbd://[2001:db8::1]:99/x");
}

TEST(NbdTarget, AUnixUriNamesSocketAndExport) {
  const auto target = parse("nbd+unix:///disk%2f1?socket=/run/a%26b.sock");
  ASSERT_TRUE(target.has_value());
  EXPECT_TRUE(target->is_unix());
  EXPECT_EQ(target->socket_path, "/run/a&b.sock");
  EXPECT_EQ(target->export_name, "disk/1");
}

TEST(NbdTarget, TlsComesFromUriAndSettings) {
  const auto by_uri = parse("nbds://alice@server/x?tls-psk-file=/keys");
  ASSERT_TRUE(by_uri.has_value()) << by_uri.error().to_string();
  EXPECT_TRUE(by_uri->uses_tls);
  EXPECT_EQ(by_uri->tls_username, "alice");
  EXPECT_EQ(by_uri->tls_psk_file, "/keys");
  const auto by_settings =
      parse("nbds://server/x", {{"tls-certificates", "/pki"}, {"io-timeout", "7"}});
  ASSERT_TRUE(by_settings.has_value());
  EXPECT_EQ(by_settings->tls_certificates, "/pki");
  EXPECT_EQ(by_settings->io_timeout, std::chrono::seconds(7));
}

TEST(NbdTarget, TheTextHasNoUserNameAndNoFiles) {
  const auto target = parse("nbds://alice@server/x?tls-psk-file=/keys");
  ASSERT_TRUE(target.has_value());
  EXPECT_EQ(target->to_string(), "nbds://server:10809/x");
}

TEST(NbdTarget, InvalidUrisAreRefusedWithAReason) {
  const std::map<std::string, std::string> cases = {
      {"nbd:server", "the scheme is not followed by '//'"},
      {"nbd:///x", "no host"},
      {"nbd://server:0/", "port"},
      {"nbd://server:65536/", "port"},
      {"nbd://server:http/", "port"},
      {"nbd://[::1/", "'[' without ']'"},
      {"nbd://[::1]x/", "text between ']' and '/'"},
      {"nbd://server/%", "export name"},
      {"nbd://server/%zz", "export name"},
      {"nbd://server/%00", "export name"},
      {"nbd://server/x#y", "'#' in the URI; write %23"},
      {"nbd://server/?socket=/s", "'socket' in a URI of a TCP server"},
      {"nbd://server/?frobnicate=1", "unknown parameter 'frobnicate'"},
      {"nbd+unix:///x", "no parameter 'socket'"},
      {"nbd+unix:///x?socket=", "parameter 'socket' without a value"},
      {"nbd+unix://server/x?socket=/s", "a host in a URI of a Unix socket"},
      {"nbds://alice:secret@server/x?tls-psk-file=/k", "the part before '@' is not a user name"},
      {"http://server/", "the scheme is none of nbd, nbds, nbd+unix, nbds+unix"},
  };
  for (const auto& [uri, reason] : cases) EXPECT_EQ(refusal_of(uri), "NBD URI: " + reason) << uri;
  EXPECT_EQ(refusal_of("nbd+unix:///?socket=/" + std::string(200, 's')),
            "NBD URI: socket path longer than 107 bytes");
  EXPECT_EQ(refusal_of("nbd://s/" + std::string(5000, 'e')), "NBD URI: export name too long");
}

TEST(NbdTarget, ARefusalRepeatsNoSecret) {
  EXPECT_EQ(refusal_of("nbds://alice:secret@server/x?tls-psk-file=/k").find("secret"),
            std::string::npos);
}

TEST(NbdTarget, InvalidSettingsAreRefusedWithAReason) {
  const auto refusal = [](const std::string& name, const std::string& value) {
    return refusal_of("nbds://server/?tls-psk-file=/k", {{name, value}});
  };
  const std::string start = "setting of an NBD disk: ";
  EXPECT_EQ(refusal("frobnicate", "1"), start + "frobnicate is unknown");
  EXPECT_EQ(refusal("tls-username", ""), start + "tls-username has no value");
  for (const char* const value : {"0", "-1", "1.5", "86401", "x", ""}) {
    EXPECT_EQ(refusal("io-timeout", value),
              start + "io-timeout is not a number of seconds from 1 to 86400");
  }
  EXPECT_EQ(refusal("tls-certificates", "/pki"), start + "tls-psk-file excludes tls-certificates");
}

TEST(NbdTarget, TlsNeedsSomethingThatAuthenticatesTheServer) {
  EXPECT_NE(refusal_of("nbds://server/").find("nothing would authenticate the server"),
            std::string::npos);
}

TEST(NbdTarget, TlsSettingsWithoutTlsAreRefused) {
  EXPECT_NE(refusal_of("nbd://server/", {{"tls-psk-file", "/k"}}).find("without TLS"),
            std::string::npos);
}

}  // namespace
}  // namespace guestio::disk
