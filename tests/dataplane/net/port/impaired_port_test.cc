// ImpairedPort over a perfect SimLink: the impairments happen, and nothing else.
#include "dataplane/net/port/impaired_port.h"
#include "dataplane/net/port/sim_link.h"
#include "frames.h"

#include <chrono>

namespace dataplane::net::test {
namespace {

using namespace std::chrono_literals;
using base::TimePoint;

TEST(ImpairedPortTest, DelaysBothDirections) {
    base::SlabPool pool{4096, 16};
    SimLink link{{}};
    ImpairedPort port{link.port(0), {.receive = {.delay = 2ms}, .transmit = {.delay = 3ms}}};
    Outgoing out{pool, {}, pattern(1000)};
    port.poll(TimePoint{1ms});
    ASSERT_EQ(port.send(out.frame()), SendResult::queued);
    port.flush();
    EXPECT_EQ(out.slabs()[0].references(), 1U) << "it has its own copy";
    EXPECT_EQ(port.next_event(), TimePoint{4ms});
    port.poll(TimePoint{3ms});
    link.run_until(TimePoint{3ms});
    EXPECT_TRUE(receive_all(link.port(1)).empty());
    port.poll(TimePoint{4ms});
    link.run_until(TimePoint{4ms});
    EXPECT_EQ(receive_all(link.port(1)), std::vector<Bytes>{wire_frame({}, pattern(1000))});

    link.deliver(0, wire_frame({.seq = 5}, pattern(700)));
    port.poll(TimePoint{5ms});
    EXPECT_TRUE(receive_all(port).empty());
    port.poll(TimePoint{7ms});
    EXPECT_EQ(receive_all(port), std::vector<Bytes>{wire_frame({.seq = 5}, pattern(700))});
}

TEST(ImpairedPortTest, EachSegmentOfALargeFrameHasItsOwnFate) {
    base::SlabPool pool{4096, 16};
    SimLink link{{}};
    ImpairedPort port{link.port(0), {.transmit = {.rules = {{.first = 3}}}}};
    Outgoing out{pool, {.v6 = true}, pattern(10'000), 1400};
    ASSERT_EQ(port.send(out.frame()), SendResult::queued);
    port.flush();
    link.run_until(TimePoint{1ms});
    const auto arrived = receive_all(link.port(1));
    ASSERT_EQ(arrived.size(), 7U);
    EXPECT_EQ(get32(arrived[2], 58), 1000 + 3 * 1400U);
    EXPECT_EQ(port.transmit_line().counters().ruled_out, 1U);
}

// T61: the device's verdict does not outlive a bit that flipped behind it.
TEST(ImpairedPortTest, ACorruptedFrameIsNoLongerVerified) {
    SimLink link{{}};
    ImpairedPort port{link.port(0),
                      {.receive = {.rules = {{.action = ImpairmentRule::Action::corrupt}}}}};
    link.deliver(0, wire_frame({}, pattern(700)));
    link.deliver(0, wire_frame({}, pattern(700)));
    port.poll(TimePoint{1ms});
    std::array<ReceivedFrame, 4> burst;
    ASSERT_EQ(port.receive(burst), 2U);
    EXPECT_EQ(burst[0].l4_checksum, ChecksumState::unknown);
    EXPECT_EQ(burst[1].l4_checksum, ChecksumState::good);
    port.release(std::span{burst}.first(2));
    EXPECT_EQ(port.counters().buffers_free, port.counters().buffers_total);
}

// T69
TEST(ImpairedPortTest, FramesThePortBelowRefusesWait) {
    base::SlabPool pool{4096, 64};
    SimLinkOptions options;
    options.ports[0].transmit_ring = 4;
    SimLink link{options};
    ImpairedPort port{link.port(0), {}};
    link.port(0).faults().stuck = true;
    for (std::uint32_t i = 0; i < 10; ++i) {
        Outgoing out{pool, {.seq = i}, pattern(900)};
        ASSERT_EQ(port.send(out.frame()), SendResult::queued);
    }
    port.flush();
    link.port(0).faults().stuck = false;
    for (unsigned i = 1; i < 5; ++i) {
        port.poll(TimePoint{1ms * i});
        link.run_until(TimePoint{1ms * i});
    }
    const auto arrived = receive_all(link.port(1));
    ASSERT_EQ(arrived.size(), 10U);
    for (std::uint32_t i = 0; i < 10; ++i)
        EXPECT_EQ(get32(arrived[i], 38), i);
}

} // namespace
} // namespace dataplane::net::test
