// A Sender against a model receiver over a bad link, in virtual time, from a seed.
//
// Checked after every event: the sender's own invariants, pipe <= cwnd at each send but the first
// retransmission and probes, a timer whenever something is in flight, progress. At the end:
// everything is delivered. A failing seed is printed; MILLRACE_SENDER_SEEDS=N runs N seeds instead.
#include "dataplane/net/tcp/sender.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <deque>
#include <map>
#include <queue>
#include <random>
#include <vector>

namespace dataplane::net::tcp {
namespace {

using namespace std::chrono_literals;

struct Link {
    double loss = 0;
    double ack_loss = 0;
    double reorder = 0; // of segments, held back by up to reorder_by
    double duplicate = 0;
    Duration delay = 20ms; // one way
    Duration reorder_by = 5ms;
    Duration spike = 0ms;               // once in a while everything stands still for so long
    std::uint64_t bytes_per_second = 0; // bottleneck; zero: none
    std::size_t queue_segments = 100;
};

/// What a receiver does: reassembles, acknowledges every second segment or at once out of order,
/// reports with SACK and D-SACK, echoes timestamps by RFC 7323 §4.3. It may renege once.
class ModelReceiver {
public:
    struct Ack {
        Seq ack;
        std::vector<SackBlock> sack;
        std::optional<std::uint32_t> echo;
        bool pure = true;
    };
    ModelReceiver(Seq first, bool sack, bool timestamps)
        : next_(first), sack_(sack), timestamps_(timestamps) {}

    /// Returns whether an ACK is due now.
    bool segment(Seq begin, Seq end, std::uint32_t tsval, bool delay_acks) {
        twice_.reset();
        const bool in_order = begin <= next_;
        if (in_order && !echo_set_) echo_ = tsval, echo_set_ = true;
        if (end <= next_) {
            twice_ = SackBlock{begin, end};
            return true;
        }
        if (!in_order) {
            for (const auto& range : ranges_)
                if (range.begin <= begin && end <= range.end) twice_ = SackBlock{begin, end};
            add({begin, end});
            return true;
        }
        if (next_ < end) next_ = end;
        const bool had_holes = !ranges_.empty();
        while (!ranges_.empty()) {
            const auto first = lowest();
            if (next_ < first->begin) break;
            if (next_ < first->end) next_ = first->end;
            ranges_.erase(first);
        }
        ++unacked_;
        return had_holes || !delay_acks || unacked_ >= 2;
    }
    Ack acknowledgement() {
        unacked_ = 0;
        Ack ack{.ack = next_, .sack = {}, .echo = {}};
        if (timestamps_) ack.echo = echo_;
        echo_set_ = false;
        if (sack_) {
            if (twice_) ack.sack.push_back(*twice_);
            for (const auto& range : ranges_) // newest first
                if (ack.sack.size() < (timestamps_ ? 3U : 4U)) ack.sack.push_back(range);
        }
        return ack;
    }
    void renege() { ranges_.clear(); }
    [[nodiscard]] bool owes() const { return unacked_ > 0; }
    [[nodiscard]] Seq next() const { return next_; }

private:
    std::deque<SackBlock>::iterator lowest() {
        return std::ranges::min_element(
            ranges_, [](const SackBlock& a, const SackBlock& b) { return a.begin < b.begin; });
    }
    void add(SackBlock block) {
        for (auto it = ranges_.begin(); it != ranges_.end();) {
            if (it->end < block.begin || block.end < it->begin) {
                ++it;
                continue;
            }
            block.begin = min(block.begin, it->begin);
            block.end = max(block.end, it->end);
            it = ranges_.erase(it);
        }
        ranges_.push_front(block);
    }
    Seq next_;
    bool sack_;
    bool timestamps_;
    std::deque<SackBlock> ranges_;
    std::optional<SackBlock> twice_;
    std::uint32_t echo_ = 0;
    bool echo_set_ = false;
    int unacked_ = 0;
};

struct Scenario {
    Link link;
    bool sack = true;
    bool timestamps = true;
    bool ecn = false;
    bool tso = false;
    bool renege = false;
    bool trickle = false; // the application writes little, now and then
    std::uint32_t mss = 1448;
    std::uint32_t bytes = 200'000;
    std::uint32_t window = 1U << 20; // the peer's
    CongestionKind kind = CongestionKind::cubic;
};

struct Result {
    bool delivered = false;
    Duration took{};
    SenderCounters counters;
};

class Simulation {
public:
    Simulation(const Scenario& run, std::uint64_t seed)
        : run_(run), random_(seed), config_{.congestion = run.kind},
          first_(static_cast<std::uint32_t>(0U - random_() % (run.bytes + 1))),
          receiver_(first_ + 1, run.sack, run.timestamps) {}

    Result play() {
        const SenderEnvironment environment{config_, counters_};
        Sender sender{environment};
        const TimePoint begin = now_;
        sender.begin(first_, now_);
        EXPECT_TRUE(sender.sent(first_, first_ + 1, now_, true));
        now_ += 2 * run_.link.delay;
        std::ignore =
            sender.on_acknowledgement({.ack = first_ + 1, .sack = {}, .ts_echo = {}}, now_);
        sender.established(run_.mss, run_.sack, run_.timestamps, run_.ecn, now_);
        end_ = first_ + 1 + run_.bytes;
        written_ = run_.trickle ? first_ + 2 : end_;
        const TimePoint limit = now_ + 3h;
        std::uint64_t events = 0;
        while (sender.una() < end_) {
            transmit(sender);
            sender.debug_check();
            if (testing::Test::HasFailure()) return {};
            const TimePoint network = events_.empty() ? TimePoint::max() : events_.top().at;
            const TimePoint next = std::min(network, sender.deadline());
            if (next == TimePoint::max()) {
                ADD_FAILURE() << "nothing would ever happen again";
                return {};
            }
            now_ = std::max(now_, next);
            if (now_ > limit || ++events > 20'000'000) {
                ADD_FAILURE() << "given up, una " << distance(first_, sender.una());
                return {};
            }
            if (sender.deadline() <= now_ && (network > now_ || random_() % 2 == 0)) {
                timer(sender);
            } else if (!events_.empty() && events_.top().at <= now_) {
                const Event event = events_.top();
                events_.pop();
                deliver(sender, event);
            }
            sender.debug_check();
        }
        EXPECT_EQ(sender.flight_bytes(), 0U);
        EXPECT_EQ(sender.deadline() == TimePoint::max() || sender.deadline() <= now_ + 1s, true);
        return {.delivered = receiver_.next() == end_, .took = now_ - begin, .counters = counters_};
    }

private:
    struct Event {
        TimePoint at;
        std::uint64_t order = 0;
        enum class Kind : std::uint8_t { segment, ack, ack_timer, write } kind = Kind::segment;
        Seq begin;
        Seq end;
        std::uint32_t tsval = 0;
        bool marked = false;
        ModelReceiver::Ack ack{};
        bool operator<(const Event& other) const {
            return std::tie(other.at, other.order) < std::tie(at, order);
        }
    };

    [[nodiscard]] bool chance(double p) {
        return std::uniform_real_distribution<double>{0, 1}(random_) < p;
    }
    void post(Event event) {
        event.order = order_++;
        events_.push(std::move(event));
    }
    void transmit(Sender& sender) {
        if (probe_) {
            probe_ = false;
            const std::uint32_t room = std::min(sender.allowance(now_), run_.mss);
            if (room > 0 && sender.nxt() < limit(sender))
                emit(sender, sender.nxt(), min(sender.nxt() + room, limit(sender)));
            else if (const auto range = sender.probe())
                emit(sender, range->begin, range->end);
        }
        for (int i = 0; i < 100'000; ++i) {
            if (const auto range = sender.retransmission(now_)) {
                EXPECT_LE(distance(range->begin, range->end), run_.mss);
                const bool first = first_resend_ || sender.pipe_bytes() == 0;
                first_resend_ = false;
                if (!first && run_.sack) {
                    EXPECT_LE(sender.pipe_bytes() + distance(range->begin, range->end),
                              std::max(sender.cwnd(), run_.mss + sender.pipe_bytes()));
                }
                emit(sender, range->begin, range->end);
                continue;
            }
            const std::uint32_t room = sender.allowance(now_);
            const Seq stop = limit(sender);
            if (room == 0 || stop <= sender.nxt()) return;
            EXPECT_TRUE(sender.pipe_bytes() < sender.cwnd() || sender.pipe_bytes() == 0);
            const std::uint32_t piece =
                std::min({room, distance(sender.nxt(), stop), run_.tso ? 8 * run_.mss : run_.mss});
            const std::uint32_t pipe = sender.pipe_bytes();
            if (!emit(sender, sender.nxt(), sender.nxt() + piece)) return;
            EXPECT_LE(sender.pipe_bytes(), std::max(sender.cwnd(), pipe == 0 ? run_.mss : 0U));
        }
        ADD_FAILURE() << "sends without end";
    }
    [[nodiscard]] Seq limit(const Sender& sender) const {
        return min(written_, sender.una() + run_.window);
    }
    bool emit(Sender& sender, Seq begin, Seq end) {
        if (!sender.sent(begin, end, now_, end == written_)) return false;
        for (Seq at = begin; at < end; at += run_.mss)
            wire(at, min(at + run_.mss, end));
        return true;
    }
    void wire(Seq begin, Seq end) {
        const std::uint32_t tsval = timestamp_ticks(now_);
        if (chance(run_.link.loss)) return;
        TimePoint leaves = now_;
        bool marked = false;
        if (run_.link.bytes_per_second > 0) {
            const Duration each{
                static_cast<std::int64_t>(1e9 * (distance(begin, end) + 52) /
                                          static_cast<double>(run_.link.bytes_per_second))};
            const auto queued = std::max(bottleneck_free_ - now_, Duration::zero()) / each;
            if (queued >= static_cast<std::int64_t>(run_.link.queue_segments)) return;
            marked = run_.ecn && queued > static_cast<std::int64_t>(run_.link.queue_segments / 4);
            bottleneck_free_ = std::max(bottleneck_free_, now_) + each;
            leaves = bottleneck_free_;
        }
        if (run_.link.spike > Duration::zero() && chance(0.002))
            spike_until_ = now_ + run_.link.spike;
        const int copies = chance(run_.link.duplicate) ? 2 : 1;
        for (int i = 0; i < copies; ++i) {
            TimePoint arrives = std::max(leaves + run_.link.delay, spike_until_);
            if (chance(run_.link.reorder))
                arrives += Duration{static_cast<std::int64_t>(
                    random_() % static_cast<std::uint64_t>(run_.link.reorder_by.count()))};
            post({.at = arrives, .begin = begin, .end = end, .tsval = tsval, .marked = marked});
        }
    }
    void deliver(Sender& sender, const Event& event) {
        switch (event.kind) {
        case Event::Kind::segment:
            echo_mark_ |= event.marked;
            if (run_.renege && random_() % 200 == 0) receiver_.renege();
            if (receiver_.segment(event.begin, event.end, event.tsval, true))
                answer();
            else
                post({.at = now_ + 40ms, .kind = Event::Kind::ack_timer});
            break;
        case Event::Kind::ack_timer:
            if (receiver_.owes()) answer();
            break;
        case Event::Kind::write:
            break;
        case Event::Kind::ack: {
            if (event.ack.ack < sender.una()) break; // the connection drops an old one
            std::vector<SackBlock> blocks = event.ack.sack;
            const std::uint64_t before = counters_.recoveries + counters_.timeouts;
            const auto outcome = sender.on_acknowledgement({.ack = event.ack.ack,
                                                            .sack = blocks,
                                                            .pure = true,
                                                            .ece = event.marked && run_.ecn,
                                                            .ts_echo = event.ack.echo},
                                                           now_);
            if (outcome.reduced) echo_mark_ = false; // CWR arrives
            if (counters_.recoveries + counters_.timeouts > before || !run_.sack)
                first_resend_ = true;
            if (run_.trickle && written_ < end_ && sender.nxt() == written_)
                written_ = min(end_, written_ + 1 + static_cast<std::uint32_t>(random_() % 5000));
            break;
        }
        }
        if (run_.trickle && written_ < end_ && sender.flight_bytes() == 0)
            written_ = min(end_, written_ + 1 + static_cast<std::uint32_t>(random_() % 5000));
    }
    void answer() {
        ModelReceiver::Ack ack = receiver_.acknowledgement();
        if (chance(run_.link.ack_loss)) return;
        TimePoint arrives = now_ + run_.link.delay;
        if (chance(run_.link.reorder / 4)) arrives += 2ms;
        post(
            {.at = arrives, .kind = Event::Kind::ack, .marked = echo_mark_, .ack = std::move(ack)});
    }
    void timer(Sender& sender) {
        const TimePoint was = sender.deadline();
        switch (sender.on_timer(now_)) {
        case SenderTimer::probe:
            probe_ = true;
            break;
        case SenderTimer::loss:
        case SenderTimer::timeout:
            first_resend_ = true;
            break;
        case SenderTimer::none:
            EXPECT_GT(sender.deadline(), was) << "a deadline that is answered moves";
            break;
        }
    }

    Scenario run_;
    std::mt19937_64 random_;
    Config config_;
    SenderCounters counters_;
    Seq first_;
    ModelReceiver receiver_;
    TimePoint now_{1000s};
    TimePoint bottleneck_free_{};
    TimePoint spike_until_{};
    Seq end_;
    Seq written_;
    std::priority_queue<Event> events_;
    std::uint64_t order_ = 0;
    bool probe_ = false;
    bool first_resend_ = false;
    bool echo_mark_ = false;
};

/// Everything from the seed.
Scenario random_run(std::uint64_t seed) {
    std::mt19937_64 random{seed * 7919 + 1};
    const auto one_of = [&](auto... values) {
        const std::array<std::common_type_t<decltype(values)...>, sizeof...(values)> all{values...};
        return all[random() % all.size()];
    };
    Scenario run;
    run.link.loss = one_of(0.0, 0.001, 0.01, 0.05, 0.1, 0.3);
    run.link.ack_loss = one_of(0.0, 0.01, 0.1, 0.3);
    run.link.reorder = one_of(0.0, 0.01, 0.2);
    run.link.duplicate = one_of(0.0, 0.01, 0.1);
    run.link.delay = one_of(Duration{5us}, Duration{1ms}, Duration{20ms}, Duration{150ms});
    run.link.reorder_by = one_of(Duration{1ms}, run.link.delay, 2 * run.link.delay) + 1us;
    run.link.spike = one_of(Duration{0}, Duration{0}, Duration{300ms}, Duration{2s});
    run.link.bytes_per_second = one_of(0, 0, 125'000, 1'250'000);
    run.link.queue_segments = one_of(5U, 20U, 100U);
    run.sack = random() % 4 != 0;
    run.timestamps = random() % 2 == 0;
    run.ecn = random() % 4 == 0;
    run.tso = random() % 2 == 0;
    run.renege = run.sack && random() % 10 == 0;
    run.trickle = random() % 4 == 0;
    run.mss = one_of(48U, 536U, 1448U, 8948U);
    run.bytes = one_of(1U, 1000U, 30'000U, 150'000U);
    if (run.link.loss > 0.2 && run.bytes > 30'000) run.bytes = 30'000;
    run.window = one_of(128U, 4096U, 65'536U, 1U << 20);
    run.kind = random() % 3 == 0 ? CongestionKind::new_reno : CongestionKind::cubic;
    return run;
}

// T20, T21, T26
TEST(SenderSimulation, EverythingIsDeliveredOverAnyLink) {
    std::uint64_t seeds = 3000;
    if (const char* wanted = std::getenv("MILLRACE_SENDER_SEEDS"))
        seeds = std::strtoull(wanted, nullptr, 10);
    std::uint64_t first = 1;
    if (const char* only = std::getenv("MILLRACE_SENDER_SEED")) {
        first = std::strtoull(only, nullptr, 10);
        seeds = first;
    }
    SenderCounters all;
    for (std::uint64_t seed = first; seed <= seeds; ++seed) {
        const Result result = Simulation{random_run(seed), seed}.play();
        ASSERT_TRUE(result.delivered && !HasFailure()) << "seed " << seed;
        all.recoveries_undone += result.counters.recoveries_undone;
        all.timeouts_undone += result.counters.timeouts_undone;
        all.reneging += result.counters.reneging;
        all.retransmits_probe += result.counters.retransmits_probe;
    }
    if (seeds < 1000) return;
    EXPECT_GT(all.recoveries_undone, 0U) << "the links reach every branch";
    EXPECT_GT(all.timeouts_undone, 0U);
    EXPECT_GT(all.reneging, 0U);
    EXPECT_GT(all.retransmits_probe, 0U);
}

double goodput(const Scenario& run, std::uint64_t seed) {
    const Result result = Simulation{run, seed}.play();
    EXPECT_TRUE(result.delivered);
    return run.bytes / std::chrono::duration<double>(result.took).count();
}

// Reno's response function (RFC 9438 §5.1's companion): W = sqrt(3/2 / p) segments; 12.2 at 1 %,
// 8.7 with delayed ACKs.
TEST(SenderSimulation, GoodputAtOnePercentLossIsThatOfTheResponseFunction) {
    for (const auto kind : {CongestionKind::cubic, CongestionKind::new_reno}) {
        Scenario run;
        run.link.loss = 0.01;
        run.link.delay = 20ms;
        run.bytes = 20'000'000;
        run.window = 16U << 20;
        run.kind = kind;
        const double measured = goodput(run, 7);
        const double response = 12.2 * 1448 / 0.040;
        RecordProperty(kind == CongestionKind::cubic ? "cubic" : "new_reno",
                       static_cast<int>(measured));
        EXPECT_GT(measured, 0.75 * response);
        EXPECT_LT(measured, 1.8 * response);
    }
}

TEST(SenderSimulation, ACleanBottleneckIsFilled) {
    Scenario run;
    run.link.bytes_per_second = 12'500'000;
    run.link.queue_segments = 350; // one bandwidth-delay product
    run.bytes = 100'000'000;
    run.window = 16U << 20;
    EXPECT_GT(goodput(run, 1), 0.88 * 12'500'000);
    run.ecn = true;
    EXPECT_GT(goodput(run, 1), 0.75 * 12'500'000); // the queue is kept to a quarter
}

TEST(SenderSimulation, AShallowQueueIsNotOverrunByBursts) {
    Scenario run;
    run.link.bytes_per_second = 12'500'000;
    run.link.queue_segments = 40;
    run.bytes = 30'000'000;
    run.window = 16U << 20;
    EXPECT_GT(goodput(run, 1), 0.6 * 12'500'000);
}

// T34
TEST(SenderSimulation, AReorderingLinkLosesLittleSpeed) {
    Scenario run;
    run.link.bytes_per_second = 12'500'000;
    run.link.queue_segments = 350;
    run.link.reorder = 0.05;
    run.link.reorder_by = 30ms;
    run.bytes = 30'000'000;
    run.window = 768U << 10;                      // below path and queue together: nothing is lost
    EXPECT_GT(goodput(run, 1), 0.6 * 12'500'000); // holes keep the peer's window shut for a while
}

} // namespace
} // namespace dataplane::net::tcp
