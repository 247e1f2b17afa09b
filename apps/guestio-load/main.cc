// SPDX-License-Identifier: MIT
#include <fmt/core.h>

#include <cstdio>
#include <variant>

#include "apps/guestio-load/arguments.h"
#include "apps/guestio-load/info.h"
#include "apps/guestio-load/run.h"
#include "apps/guestio-load/verify.h"
#include "guestio/base/standard_fds.h"
#include "guestio/mem/recover.h"

namespace {

using namespace guestio::load;

int execute(const InfoArguments& arguments) { return show_info(arguments); }
int execute(const RunArguments& arguments) { return run_load(arguments); }
int execute(const VerifyArguments& arguments) { return verify_disk(arguments); }

}  // namespace

int main(int count, char** values) {
  guestio::open_standard_fds();
  const auto arguments = guestio::load::parse_arguments(count, values);
  if (!arguments) {
    fmt::print(arguments.error().status == 0 ? stdout : stderr, "{}", arguments.error().text);
    return arguments.error().status;
  }
  const auto recovery = guestio::mem::install_fault_recovery();
  if (!recovery) {
    fmt::print(stderr, "guestio-load: {}\n", recovery.error().to_string());
    return kExitFailed;
  }
  return std::visit([](const auto& command) { return execute(command); }, *arguments);
}
