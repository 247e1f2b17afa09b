// SPDX-License-Identifier: MIT
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "testing/child_process.h"
#include "testing/temporary.h"

namespace guestio::testing {

/// Keys and certificates for TLS, in a folder of their own.
class NbdKeys {
 public:
  /// Whether the tools of GnuTLS are installed.
  static bool can_make() {
    return std::filesystem::exists("/usr/bin/psktool") &&
           std::filesystem::exists("/usr/bin/certtool");
  }

  /// A file with the pre-shared key of `user`.
  [[nodiscard]] std::string psk_file(const std::string& name, const std::string& user = "alice") {
    run({"/usr/bin/psktool", "--username=" + user, "--pskfile=" + folder_.file(name)});
    return folder_.file(name);
  }
  /// A folder with ca-cert.pem, server-cert.pem and server-key.pem, for the host "localhost".
  [[nodiscard]] std::string certificates(const std::string& name) {
    const std::string folder = folder_.file(name);
    std::filesystem::create_directory(folder);
    std::ofstream(folder + "/ca") << "cn = \"Test CA\"\nca\ncert_signing_key\n";
    std::ofstream(folder + "/server") << "cn = \"localhost\"\ndns_name = \"localhost\"\n"
                                         "tls_www_server\nencryption_key\nsigning_key\n";
    const std::string tool = "/usr/bin/certtool";
    for (const char* const key : {"/ca-key.pem", "/server-key.pem"}) {
      run({tool, "--generate-privkey", "--ecc", "--outfile=" + folder + key});
    }
    run({tool, "--generate-self-signed", "--load-privkey=" + folder + "/ca-key.pem",
         "--template=" + folder + "/ca", "--outfile=" + folder + "/ca-cert.pem"});
    run({tool, "--generate-certificate", "--load-ca-certificate=" + folder + "/ca-cert.pem",
         "--load-ca-privkey=" + folder + "/ca-key.pem",
         "--load-privkey=" + folder + "/server-key.pem", "--template=" + folder + "/server",
         "--outfile=" + folder + "/server-cert.pem"});
    return folder;
  }

 private:
  static void run(const std::vector<std::string>& words) {
    ChildProcess tool(words);
    EXPECT_EQ(tool.wait(), 0) << tool.output();
  }

  TemporaryDirectory folder_;
};

}  // namespace guestio::testing
