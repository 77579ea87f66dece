// SimLink and SimPort: delivery, determinism, faults, what zero-copy promises.
#include "dataplane/net/port/sim_link.h"
#include "frames.h"

#include <chrono>

namespace dataplane::net::test {
namespace {

using namespace std::chrono_literals;
using base::TimePoint;

class Sim : public testing::Test {
protected:
    base::SlabPool pool_{4096, 256};

    SendResult send(Port& port, const Headers& headers, const Bytes& payload,
                    std::uint16_t segment_bytes = 0, bool control = false) {
        Outgoing out{pool_, headers, payload, segment_bytes};
        out.frame().control = control;
        return port.send(out.frame());
    }
};

TEST_F(Sim, FramesArriveAfterTheDelayAsTheyWere) {
    SimLink link{{.lines = {ImpairmentOptions{.delay = 3ms}, {}}}};
    ASSERT_EQ(send(link.port(0), {}, pattern(500)), SendResult::queued);
    link.run_until(TimePoint{1ms});
    EXPECT_EQ(link.next_event(), TimePoint::max()) << "nothing leaves before flush()";
    link.port(0).flush();
    EXPECT_EQ(link.next_event(), TimePoint{4ms});
    link.run_until(TimePoint{4ms} - base::Duration{1});
    EXPECT_TRUE(receive_all(link.port(1)).empty());
    link.run_until(TimePoint{4ms});
    EXPECT_EQ(receive_all(link.port(1)), std::vector<Bytes>{wire_frame({}, pattern(500))});
    EXPECT_EQ(link.port(0).counters().slabs_held, 0U);
}

// T62: short frames carry padding behind the packet.
TEST_F(Sim, RuntsArePadded) {
    SimLink link{{}};
    Bytes arp(42, std::byte{1});
    ASSERT_EQ(link.port(0).send({.header = arp, .control = true}), SendResult::queued);
    link.port(0).flush();
    link.run_until(TimePoint{});
    const auto arrived = receive_all(link.port(1));
    ASSERT_EQ(arrived.size(), 1U);
    EXPECT_EQ(arrived[0].size(), 60U);
}

TEST_F(Sim, LargeFramesAreCutAndSummed) {
    for (const bool v6 : {false, true}) {
        SimLink link{{}};
        const Bytes payload = pattern(10'000);
        ASSERT_EQ(send(link.port(0), {.v6 = v6}, payload, 1400), SendResult::queued);
        link.port(0).flush();
        link.run_until(TimePoint{});
        std::array<ReceivedFrame, 64> burst;
        ASSERT_EQ(link.port(1).receive(burst), 8U);
        for (std::size_t i = 0; i < 8; ++i)
            EXPECT_EQ(burst[i].l4_checksum, ChecksumState::good);
        link.port(1).release(std::span{burst}.first(8));
    }
}

// T61: a device that verifies says bad, one that does not says nothing.
TEST_F(Sim, VerdictsAreOnlyGivenByPortsThatVerify) {
    SimLinkOptions options;
    options.ports[0].receive_checksum = false;
    SimLink link{options};
    Bytes wrong = wire_frame({}, pattern(100));
    wrong.back() ^= std::byte{1};
    std::array<ReceivedFrame, 4> burst;
    link.deliver(1, wrong);
    ASSERT_EQ(link.port(1).receive(burst), 1U);
    EXPECT_EQ(burst[0].l4_checksum, ChecksumState::bad);
    link.port(1).release(std::span{burst}.first(1));
    link.deliver(0, wrong);
    ASSERT_EQ(link.port(0).receive(burst), 1U);
    EXPECT_EQ(burst[0].l4_checksum, ChecksumState::unknown);
    link.port(0).release(std::span{burst}.first(1));
}

TEST_F(Sim, TheSameSeedGivesTheSameRun) {
    const auto run = [this](std::uint64_t seed) {
        const ImpairmentOptions bad{.delay = 1ms,
                                    .jitter = 2ms,
                                    .loss = 0.1,
                                    .duplicate = 0.1,
                                    .corrupt = 0.1,
                                    .reorder = 0.1};
        SimLink link{{.lines = {bad, bad}, .seed = seed}};
        std::vector<std::pair<base::Duration, Bytes>> seen;
        link.set_tap([&seen](unsigned, SimLink::TapPoint point, std::span<const std::byte> frame,
                             TimePoint now) {
            if (point == SimLink::TapPoint::arrived)
                seen.emplace_back(now.time_since_epoch(), Bytes{frame.begin(), frame.end()});
        });
        for (unsigned i = 0; i < 300; ++i) {
            EXPECT_EQ(send(link.port(i % 2), {.seq = i}, pattern(200)), SendResult::queued);
            link.port(i % 2).flush();
            link.run_until(TimePoint{i * 100us});
            receive_all(link.port(1 - i % 2));
        }
        link.run_until(TimePoint{1s});
        return seen;
    };
    const auto first = run(42);
    EXPECT_GT(first.size(), 200U);
    EXPECT_EQ(first, run(42));
    EXPECT_NE(first, run(43));
}

// T29: bytes that change while the device still reads them are noticed.
TEST_F(Sim, RewritingASlabInFlightIsCounted) {
    SimLinkOptions options;
    options.ports[0].completion_delay = 1ms;
    SimLink link{options};
    Outgoing kept{pool_, {}, pattern(1000)};
    Outgoing changed{pool_, {}, pattern(1000)};
    ASSERT_EQ(link.port(0).send(kept.frame()), SendResult::queued);
    ASSERT_EQ(link.port(0).send(changed.frame()), SendResult::queued);
    link.port(0).flush();
    EXPECT_EQ(kept.slabs()[0].references(), 2U);
    EXPECT_EQ(link.port(0).counters().slabs_held, 2U);
    changed.slabs()[0].data()[999] ^= std::byte{1};
    link.run_until(TimePoint{1ms});
    EXPECT_EQ(link.port(0).rewritten_in_flight(), 1U);
    EXPECT_EQ(kept.slabs()[0].references(), 1U);
    EXPECT_EQ(link.port(0).counters().slabs_held, 0U);
}

TEST_F(Sim, WhatIsGivenBackIsScribbledOver) {
    SimLinkOptions options;
    options.ports[0].completion_delay = 1ms;
    SimLink link{options};
    std::byte* slab_bytes = nullptr;
    {
        Outgoing out{pool_, {}, pattern(1000)};
        slab_bytes = out.slabs()[0].data();
        ASSERT_EQ(link.port(0).send(out.frame()), SendResult::queued);
        link.port(0).flush();
    } // the device is now the last holder
    EXPECT_EQ(pool_.free_count(), pool_.slab_count() - 1);
    link.run_until(TimePoint{1ms});
    EXPECT_EQ(pool_.free_count(), pool_.slab_count());
    EXPECT_EQ(slab_bytes[0], std::byte{0xdd});
    std::array<ReceivedFrame, 4> burst;
    ASSERT_EQ(link.port(1).receive(burst), 1U);
    const std::byte* frame = burst[0].bytes.data();
    link.port(1).release(std::span{burst}.first(1));
    EXPECT_EQ(frame[20], std::byte{0xdd});
}

// T68: with the pool used up, control frames still go, from the reserve; all comes back.
TEST_F(Sim, TheReserveCarriesControlFramesWhenThePoolIsEmpty) {
    SimLinkOptions options;
    options.ports[0].transmit_buffers = 532;
    options.ports[0].control_reserve = 512;
    options.ports[0].completion_delay = 1ms;
    SimLink link{options};
    SimPort& port = link.port(0);
    for (unsigned i = 0; i < 20; ++i)
        ASSERT_EQ(send(port, {}, pattern(100)), SendResult::queued);
    EXPECT_EQ(port.send_room(), 0U);
    EXPECT_EQ(send(port, {}, pattern(100)), SendResult::no_buffers);
    for (unsigned i = 0; i < 512; ++i)
        ASSERT_EQ(send(port, {}, {}, 0, true), SendResult::queued) << i;
    EXPECT_EQ(send(port, {}, {}, 0, true), SendResult::no_buffers);
    port.flush();
    link.run_until(TimePoint{1ms});
    EXPECT_EQ(send(port, {}, pattern(100)), SendResult::queued);
    EXPECT_EQ(port.counters().no_buffers, 2U);
}

// T69: a stuck device fills its ring, refuses, and goes on when it moves again.
TEST_F(Sim, AStuckDeviceRefusesBeyondItsRing) {
    SimLinkOptions options;
    options.ports[0].transmit_ring = 10;
    SimLink link{options};
    SimPort& port = link.port(0);
    port.faults().stuck = true;
    for (unsigned i = 0; i < 10; ++i)
        ASSERT_EQ(send(port, {}, pattern(100)), SendResult::queued);
    EXPECT_EQ(send(port, {}, pattern(100)), SendResult::ring_full);
    EXPECT_EQ(send(port, {}, {}, 0, true), SendResult::queued) << "control has room beyond";
    port.flush();
    EXPECT_EQ(link.next_event(), TimePoint::max());
    port.faults().stuck = false;
    EXPECT_EQ(send(port, {}, pattern(100)), SendResult::queued);
    port.flush();
    link.run_until(TimePoint{});
    EXPECT_EQ(receive_all(link.port(1)).size(), 12U);
}

TEST_F(Sim, AFullReceiveRingMissesFrames) {
    SimLinkOptions options;
    options.ports[1].receive_ring = 5;
    SimLink link{options};
    for (unsigned i = 0; i < 8; ++i)
        link.inject(0, wire_frame({}, pattern(100)));
    link.run_until(TimePoint{});
    EXPECT_EQ(receive_all(link.port(1)).size(), 5U);
    EXPECT_EQ(link.port(1).counters().receive_missed, 3U);
}

TEST_F(Sim, RssSpreadsByHashAndTable) {
    SimLinkOptions options;
    options.ports[1].queue_count = 3;
    SimLink link{options};
    const auto layout = link.port(1).rss_layout();
    ASSERT_TRUE(layout);
    EXPECT_FALSE(link.port(0).rss_layout());
    std::size_t received = 0;
    for (std::uint16_t port = 1000; port < 1100; ++port)
        link.inject(0, wire_frame({.source_port = port}, pattern(10)));
    link.run_until(TimePoint{});
    for (std::uint16_t queue = 0; queue < 3; ++queue) {
        for (const Bytes& frame : receive_all(link.port(1, queue))) {
            const auto hash = rss_hash(frame, layout->key);
            ASSERT_TRUE(hash);
            EXPECT_EQ(layout->table[*hash & (layout->table.size() - 1)], queue);
            ++received;
        }
        EXPECT_GT(link.port(1, queue).counters().frames_in, 10U);
    }
    EXPECT_EQ(received, 100U);
}

} // namespace
} // namespace dataplane::net::test
