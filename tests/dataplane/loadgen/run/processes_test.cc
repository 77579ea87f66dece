// CPU of processes that come and go, told by a /proc made by hand.
#include "dataplane/loadgen/run/processes.h"

#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <unistd.h>

namespace dataplane::loadgen {
namespace {

namespace fs = std::filesystem;

class Processes : public testing::Test {
protected:
    void SetUp() override {
        std::string name = (fs::temp_directory_path() / "millrace-proc-XXXXXX").string();
        ASSERT_NE(mkdtemp(name.data()), nullptr);
        proc_ = name;
    }
    void TearDown() override { fs::remove_all(proc_); }

    static std::string stat(int pid, const std::string& name, int parent, double own,
                            double children, int started) {
        const auto ticks = [](double seconds) {
            return std::to_string(
                static_cast<long>(seconds * static_cast<double>(sysconf(_SC_CLK_TCK))));
        };
        return std::to_string(pid) + " (" + name + ") S " + std::to_string(parent) +
               " 1 1 0 -1 0 0 0 0 0 " + ticks(own) + " 0 " + ticks(children) + " 0 20 0 1 0 " +
               std::to_string(started) + " 0 0\n";
    }
    void process(int pid, const std::string& name, int parent, double own, double children = 0,
                 int started = 1) {
        const fs::path folder = proc_ / std::to_string(pid);
        fs::create_directories(folder / "task" / std::to_string(pid));
        const std::string text = stat(pid, name, parent, own, children, started);
        std::ofstream(folder / "stat") << text;
        std::ofstream(folder / "task" / std::to_string(pid) / "stat") << text;
        std::ofstream(folder / "status") << "VmRSS:\t  1000 kB\n";
    }
    void gone(int pid) { fs::remove_all(proc_ / std::to_string(pid)); }

    fs::path proc_;
};

TEST_F(Processes, WhatChildrenUsedIsCountedOnceThoughTheyEnd) {
    ProcessMeter meter({10}, "", proc_);
    process(10, "master", 1, 5, 100);
    process(11, "smtpd", 10, 2);
    EXPECT_EQ(meter.look().cpu_s, 0); // what was before is not counted
    process(11, "smtpd", 10, 3);
    process(12, "smtpd", 10, 1, 0, 2);
    EXPECT_NEAR(meter.look().cpu_s, 2, 0.02);
    gone(11); // after another half of a second that only its parent knows of
    process(10, "master", 1, 5, 103.5);
    EXPECT_NEAR(meter.look().cpu_s, 2.5, 0.02);
    process(10, "master", 1, 5, 104.5); // one that came and went between two looks
    EXPECT_NEAR(meter.look().cpu_s, 3.5, 0.02);
}

TEST_F(Processes, NothingEverGoesBackwards) {
    ProcessMeter meter({10}, "", proc_);
    process(10, "daemon", 1, 0);
    process(11, "child", 10, 0);
    EXPECT_EQ(meter.look().cpu_s, 0);
    process(11, "child", 10, 4);
    EXPECT_NEAR(meter.look().cpu_s, 4, 0.02);
    gone(11); // nobody waited for it
    EXPECT_NEAR(meter.look().cpu_s, 4, 0.02);
    gone(10);
    const ProcessUse use = meter.look();
    EXPECT_NEAR(use.cpu_s, 4, 0.02);
    EXPECT_FALSE(use.alive);
}

TEST_F(Processes, NewOnesOfTheNameAndOrphansAreWatchedAndANumberUsedAgainIsAnother) {
    ProcessMeter meter({}, "exim4", proc_);
    process(10, "exim4", 1, 0);
    process(20, "other", 1, 50);
    EXPECT_EQ(meter.look().cpu_s, 0);
    process(11, "exim4", 10, 1, 0, 5);
    process(12, "helper", 11, 1, 0, 5);
    EXPECT_NEAR(meter.look().cpu_s, 2, 0.02);
    gone(11);
    process(12, "helper", 1, 2, 0, 5); // its parent has gone, and it works on
    EXPECT_NEAR(meter.look().cpu_s, 3, 0.02);
    process(12, "stranger", 1, 9, 0, 77);
    EXPECT_NEAR(meter.look().cpu_s, 3, 0.02);
}

TEST_F(Processes, ThreadsAreToldByNameAndMemoryInMegabytes) {
    ProcessMeter meter({10}, "", proc_);
    process(10, "shard-0", 1, 1);
    static_cast<void>(meter.look());
    process(10, "shard-0", 1, 3);
    const ProcessUse use = meter.look();
    ASSERT_EQ(use.threads.size(), 1U);
    EXPECT_EQ(use.threads[0].name, "shard");
    EXPECT_NEAR(use.threads[0].value, 2, 0.02);
    EXPECT_NEAR(use.memory_mb, 1.024, 0.001);
}

} // namespace
} // namespace dataplane::loadgen
