// Each impairment of a line, alone, and that a seed repeats all of them.
#include "dataplane/net/port/frame_view.h"
#include "dataplane/net/port/impairment.h"
#include "frames.h"

#include <chrono>

namespace dataplane::net::test {
namespace {

using namespace std::chrono_literals;
using base::Duration;
using base::TimePoint;

constexpr TimePoint start{1s};

class Line : public testing::Test {
protected:
    base::SlabPool pool_{2048, 16384};

    LineFrame frame(const Bytes& bytes) {
        LineFrame out{.slab = pool_.take(), .bytes = static_cast<std::uint32_t>(bytes.size())};
        std::memcpy(out.slab.data(), bytes.data(), bytes.size());
        return out;
    }
    void push_numbered(ImpairedLine& line, unsigned count, Duration gap = Duration{0},
                       Headers headers = {}) {
        for (unsigned i = 0; i < count; ++i) {
            headers.seq = i;
            line.push(frame(wire_frame(headers, pattern(100))), start + gap * i);
        }
    }
    struct Arrival {
        Duration at; // since start
        std::uint32_t number;
        bool intact;
        bool operator==(const Arrival&) const = default;
    };
    static std::vector<Arrival> drain(ImpairedLine& line) {
        std::vector<Arrival> out;
        while (line.next_event() != TimePoint::max()) {
            const TimePoint at = line.next_event();
            EXPECT_FALSE(line.pop(at - Duration{1}).slab) << "a frame came too early";
            const LineFrame arrived = line.pop(at);
            const ChecksumVerdict verdict = verify_checksums(arrived.span());
            const bool intact =
                verdict.ip == ChecksumState::good && verdict.l4 == ChecksumState::good;
            out.push_back({at - start, get32(arrived.span(), 38), intact});
        }
        return out;
    }
};

TEST_F(Line, DelayMovesEveryFrameAndKeepsTheOrder) {
    ImpairedLine line{{.delay = 5ms}, 1, pool_};
    push_numbered(line, 3, 1ms);
    EXPECT_EQ(drain(line), (std::vector<Arrival>{{5ms, 0, true}, {6ms, 1, true}, {7ms, 2, true}}));
    EXPECT_EQ(pool_.free_count(), pool_.slab_count());
}

TEST_F(Line, JitterVariesTheDelayWithinItsWidthAndKeepsTheOrder) {
    ImpairedLine line{{.delay = 5ms, .jitter = 2ms}, 1, pool_};
    push_numbered(line, 1000, 1us);
    const auto arrivals = drain(line);
    ASSERT_EQ(arrivals.size(), 1000U);
    for (unsigned i = 0; i < 1000; ++i) {
        EXPECT_EQ(arrivals[i].number, i);
        EXPECT_GE(arrivals[i].at, 5ms);
        EXPECT_LE(arrivals[i].at, 7ms + 1us * i);
    }
    EXPECT_GT(arrivals.back().at, 6ms);
}

TEST_F(Line, LossIsAsOftenAsAskedAndTheSameForTheSameSeed) {
    std::vector<std::vector<Arrival>> runs;
    for (const std::uint64_t seed : {7U, 7U, 8U}) {
        ImpairedLine line{
            {.jitter = 1ms, .loss = 0.1, .duplicate = 0.05, .corrupt = 0.05, .reorder = 0.05},
            seed,
            pool_};
        push_numbered(line, 5000, 10us);
        runs.push_back(drain(line));
        EXPECT_NEAR(static_cast<double>(line.counters().lost), 500, 75);
        EXPECT_NEAR(static_cast<double>(line.counters().duplicated), 225, 60);
        EXPECT_NEAR(static_cast<double>(line.counters().corrupted), 225, 60);
        EXPECT_NEAR(static_cast<double>(line.counters().reordered), 225, 60);
    }
    EXPECT_EQ(runs[0], runs[1]);
    EXPECT_NE(runs[0], runs[2]);
}

TEST_F(Line, BurstLossComesInRuns) {
    ImpairedLine line{{.burst_loss = GilbertElliott{.to_bad = 0.01, .to_good = 0.25}}, 3, pool_};
    push_numbered(line, 5000);
    const auto arrivals = drain(line);
    unsigned gaps = 0;
    for (std::size_t i = 1; i < arrivals.size(); ++i)
        gaps += arrivals[i].number != arrivals[i - 1].number + 1 ? 1 : 0;
    const double lost = 5000.0 - static_cast<double>(arrivals.size());
    EXPECT_GT(lost, 100);
    EXPECT_NEAR(lost / gaps, 4, 1.5); // 1 / to_good frames in a row
}

TEST_F(Line, RulesHitTheNthMatchingFrameOnly) {
    const auto to_port_25 = [](std::span<const std::byte> frame) {
        const auto view = view_frame(frame);
        return view && view->destination_port == 25;
    };
    using Action = ImpairmentRule::Action;
    ImpairedLine line{{.delay = 1ms,
                       .rules = {{.matches = to_port_25, .first = 2, .count = 2},
                                 {.first = 5, .action = Action::delay, .extra = 10ms},
                                 {.first = 6, .action = Action::duplicate, .extra = 3ms},
                                 {.first = 7, .action = Action::corrupt}}},
                      1,
                      pool_};
    push_numbered(line, 7);
    const auto arrivals = drain(line);
    const std::vector<std::uint32_t> numbers{0, 3, 5, 6, 5, 4};
    ASSERT_EQ(arrivals.size(), numbers.size());
    for (std::size_t i = 0; i < numbers.size(); ++i)
        EXPECT_EQ(arrivals[i].number, numbers[i]) << i;
    EXPECT_EQ(arrivals[4].at, 4ms);
    EXPECT_EQ(arrivals[5].at, 11ms);
    EXPECT_FALSE(arrivals[3].intact);
    EXPECT_EQ(line.counters().ruled_out, 2U);
}

TEST_F(Line, APassRuleExemptsFromChance) {
    ImpairedLine line{
        {.loss = 1, .rules = {{.first = 3, .action = ImpairmentRule::Action::pass}}}, 1, pool_};
    push_numbered(line, 10);
    const auto arrivals = drain(line);
    ASSERT_EQ(arrivals.size(), 1U);
    EXPECT_EQ(arrivals[0].number, 2U);
}

TEST_F(Line, ReorderedFramesAreOvertaken) {
    ImpairedLine line{{.reorder = 0.2, .reorder_extra = 50us}, 5, pool_};
    push_numbered(line, 100, 10us);
    const auto arrivals = drain(line);
    unsigned overtaken = 0;
    for (std::size_t i = 1; i < arrivals.size(); ++i)
        overtaken += arrivals[i].number < arrivals[i - 1].number ? 1 : 0;
    EXPECT_EQ(arrivals.size(), 100U);
    EXPECT_GT(overtaken, 5U);
}

TEST_F(Line, CorruptionFlipsOneBitBehindTheEthernetHeader) {
    ImpairedLine line{{.corrupt = 1}, 5, pool_};
    const Bytes sent = wire_frame({}, pattern(100));
    for (unsigned i = 0; i < 200; ++i) {
        line.push(frame(sent), start);
        const LineFrame arrived = line.pop(start);
        unsigned flipped = 0;
        for (std::size_t at = 0; at < sent.size(); ++at) {
            const auto bits = static_cast<unsigned>(
                std::popcount(std::to_integer<std::uint8_t>(sent[at] ^ arrived.span()[at])));
            flipped += bits;
            if (at < 14) {
                EXPECT_EQ(bits, 0U);
            }
        }
        EXPECT_EQ(flipped, 1U);
        EXPECT_EQ(arrived.l4_checksum, ChecksumState::unknown);
    }
}

// T66: with a handler unset the line is a black hole.
TEST_F(Line, PacketsAboveTheMtuAreDroppedAndTold) {
    std::vector<std::uint16_t> told;
    ImpairmentOptions options{.mtu = 152}; // 20 + 32 + 100
    options.on_too_big = [&told](std::span<const std::byte>, std::uint16_t mtu) {
        told.push_back(mtu);
    };
    ImpairedLine line{options, 1, pool_};
    push_numbered(line, 1);
    line.push(frame(wire_frame({.seq = 1}, pattern(101))), start);
    EXPECT_EQ(drain(line).size(), 1U);
    EXPECT_EQ(told, std::vector<std::uint16_t>{152});
    options.on_too_big = nullptr;
    line.change(options);
    line.push(frame(wire_frame({.seq = 1}, pattern(101))), start);
    EXPECT_EQ(line.counters().too_big, 2U);
    EXPECT_EQ(line.frame_count(), 0U);
}

TEST_F(Line, ABottleneckSpacesFramesAndItsQueueOverflows) {
    // 166 bytes at 1.328 Mbit/s: a millisecond each. The queue holds 10 of them.
    ImpairedLine line{{.rate_bits_per_s = 1'328'000, .queue_bytes = 1660}, 1, pool_};
    push_numbered(line, 15);
    const auto arrivals = drain(line);
    ASSERT_EQ(arrivals.size(), 10U);
    for (unsigned i = 0; i < 10; ++i)
        EXPECT_EQ(arrivals[i].at, 1ms * (i + 1));
    EXPECT_EQ(line.counters().queue_full, 5U);
}

TEST_F(Line, AFullQueueMarksEcnCapableFramesOnly) {
    for (const std::uint8_t ecn : {std::uint8_t{0}, std::uint8_t{2}}) {
        ImpairedLine line{{.rate_bits_per_s = 1'328'000, .mark_bytes = 500}, 1, pool_};
        push_numbered(line, 10, Duration{0}, {.ecn = ecn});
        const auto arrivals = drain(line);
        EXPECT_EQ(line.counters().marked, ecn == 0 ? 0U : 6U); // queued before: 664 and more
        for (const Arrival& arrival : arrivals)
            EXPECT_TRUE(arrival.intact);
    }
}

TEST_F(Line, AFullLineDropsAndGivesTheBuffersBack) {
    ImpairedLine line{{.delay = 1s}, 1, pool_};
    push_numbered(line, impaired_frames + 10);
    EXPECT_EQ(line.counters().line_full, 10U);
    EXPECT_EQ(pool_.free_count(), pool_.slab_count() - impaired_frames);
}

} // namespace
} // namespace dataplane::net::test
