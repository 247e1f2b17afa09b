// SPDX-License-Identifier: MIT
#include "guestio/disk/rbd/lock_record.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "testing/temporary.h"

namespace guestio::disk {
namespace {

TEST(LockRecords, SurviveAFile) {
  const testing::TemporaryDirectory folder;
  const std::string file = folder.file("state");
  const LockRecords records = {LockRecord::of_process("10.0.0.1:0/7"),
                               LockRecord::of_process("10.0.0.1:0/8")};
  EXPECT_TRUE(load_records(file).empty());
  ASSERT_TRUE(save_records(records, file));
  EXPECT_EQ(load_records(file), records);
  ASSERT_TRUE(save_records({records[1]}, file));
  EXPECT_EQ(load_records(file), LockRecords{records[1]});
  ASSERT_TRUE(save_records({}, file));
  EXPECT_FALSE(std::filesystem::exists(file));
  ASSERT_TRUE(save_records({}, file));
  EXPECT_FALSE(save_records(records, folder.file("missing/state")));
}

TEST(LockRecords, SkipGarbage) {
  const testing::TemporaryDirectory folder;
  const LockRecord record = LockRecord::of_process("10.0.0.1:0/7");
  std::ofstream(folder.file("state")) << "x\naddress a\npid x\nstart 1\n" << record.to_text();
  EXPECT_EQ(load_records(folder.file("state")), LockRecords{record});
}

TEST(LockRecord, IsOfARunningProcess) { EXPECT_FALSE(LockRecord::of_process("a").is_gone()); }

TEST(LockRecord, IsGoneWithItsProcess) {
  LockRecord record = LockRecord::of_process("a");
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  record.pid = static_cast<std::uint64_t>(child);
  siginfo_t ended{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOWAIT), 0);
  EXPECT_TRUE(record.is_gone());
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_TRUE(record.is_gone());
}

TEST(LockRecord, TellsProcessesOfOneNumberApart) {
  LockRecord record = LockRecord::of_process("a");
  ++record.start;
  EXPECT_TRUE(record.is_gone());
}

TEST(LockRecord, IsNotJudgedFromAfar) {
  LockRecord record = LockRecord::of_process("a");
  record.start = 1;
  record.pid_namespace = "pid:[1]";
  EXPECT_FALSE(record.is_gone());
  record = LockRecord::of_process("a");
  record.start = 1;
  record.boot = "another";
  EXPECT_FALSE(record.is_gone());
}

TEST(LockRecord, GarbageIsNone) {
  for (const char* const text : {"", "address \n", "address a\npid x\nstart 1\n",
                                 "address a\npid 1\n", "pid 1\nstart 2\n", "\n\n\0x"}) {
    EXPECT_FALSE(LockRecord::from_text(text)) << text;
  }
}

}  // namespace
}  // namespace guestio::disk
