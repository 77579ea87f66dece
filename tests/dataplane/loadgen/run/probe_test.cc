#include "dataplane/loadgen/run/probe.h"

#include <gtest/gtest.h>

namespace dataplane::loadgen {
namespace {

TEST(Probe, RoomsAreFoundAmongOtherMetrics) {
    const auto rooms = rooms_in("# HELP millrace_room_cpu_microseconds CPU time\n"
                                "# TYPE millrace_room_cpu_microseconds counter\n"
                                "millrace_room_cpu_microseconds{room=\"smtp\"} 1500000\n"
                                "millrace_room_cpu_microseconds{room=\"spool\"} 42\n"
                                "millrace_loop_turns 7\n");
    ASSERT_EQ(rooms.size(), 2U);
    EXPECT_EQ(rooms[0].name, "smtp");
    EXPECT_DOUBLE_EQ(rooms[0].value, 1.5);
    EXPECT_DOUBLE_EQ(rooms[1].value, 42e-6);
}

TEST(Probe, AnotherProgramsMetricsHaveNone) {
    EXPECT_TRUE(rooms_in("").empty());
    EXPECT_TRUE(rooms_in("connection_count 5").empty());
    EXPECT_TRUE(rooms_in("millrace_room_cpu_microseconds{room=\"smtp").empty()); // cut off
    EXPECT_TRUE(rooms_in("millrace_room_cpu_microseconds{room=\"smtp\"} lots\n").empty());
}

TEST(Probe, WhereNobodyAnswersTheRemedyIsNamed) {
    try {
        static_cast<void>(metrics_of(*base::SocketAddress::parse("127.0.0.1:1")));
        FAIL() << "somebody answers at port 1";
    } catch (const std::runtime_error& error) {
        EXPECT_NE(std::string(error.what()).find("--relay-metrics"), std::string::npos)
            << error.what();
    }
}

} // namespace
} // namespace dataplane::loadgen
