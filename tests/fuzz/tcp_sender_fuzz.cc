// Goal: no acknowledgements and no clock make a Sender break its invariants, grow without bound,
// send what was not lost or stand still: whatever came before, an honest peer afterwards gets
// everything.
#include "dataplane/base/check.h"
#include "dataplane/net/tcp/sender.h"

#include <array>
#include <cstring>

using namespace dataplane::net::tcp;

namespace {

class Input {
public:
    Input(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
    [[nodiscard]] bool empty() const { return size_ == 0; }
    template <class T>
    T take() {
        T value{};
        const std::size_t bytes = std::min(sizeof value, size_);
        std::memcpy(&value, data_, bytes);
        data_ += bytes;
        size_ -= bytes;
        return value;
    }

private:
    const std::uint8_t* data_;
    std::size_t size_;
};

/// A place in or near the flight: most random numbers would be far from it.
Seq near_flight(Input& input, const Sender& sender) {
    const auto where = input.take<std::uint16_t>();
    const std::uint32_t flight = sender.flight_bytes();
    switch (where & 3U) {
    case 0:
        return sender.una() + static_cast<std::uint32_t>(std::uint64_t{flight} * where / 65'535);
    case 1:
        return sender.una() + (where >> 2) % 64 * 100;
    case 2:
        return sender.una() - (where >> 2);
    default:
        return Seq{input.take<std::uint32_t>()};
    }
}

void send_what_is_allowed(Sender& sender, TimePoint now, std::uint32_t mss, unsigned at_most,
                          bool limited) {
    for (unsigned i = 0; i < at_most; ++i) {
        if (const auto range = sender.retransmission(now)) {
            CHECK(sender.una() <= range->begin && range->begin < range->end &&
                  range->end <= sender.nxt());
            CHECK(sender.sent(range->begin, range->end, now, limited));
        } else if (const std::uint32_t room = sender.allowance(now); room > 0) {
            const std::uint32_t bytes = std::min(room, mss);
            if (!sender.sent(sender.nxt(), sender.nxt() + bytes, now, limited)) return;
        } else {
            return;
        }
        sender.debug_check();
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input input{data, std::min<std::size_t>(size, 4096)};
    const auto flags = input.take<std::uint8_t>();
    Config config;
    config.congestion = (flags & 1U) != 0 ? CongestionKind::cubic : CongestionKind::new_reno;
    SenderCounters counters;
    const SenderEnvironment environment{config, counters};
    Sender sender{environment};
    TimePoint now{std::chrono::seconds{1000}};
    const Seq iss{input.take<std::uint32_t>()};
    std::uint32_t mss = std::array{48U, 536U, 1448U, 9000U}[input.take<std::uint8_t>() % 4];
    const bool timestamps = (flags & 4U) != 0;

    sender.begin(iss, now);
    CHECK(sender.sent(iss, iss + 1, now, true));
    now += std::chrono::milliseconds{input.take<std::uint16_t>()};
    while (sender.deadline() <= now)
        static_cast<void>(sender.on_timer(now));
    static_cast<void>(sender.on_acknowledgement({.ack = iss + 1, .sack = {}, .ts_echo = {}}, now));
    sender.established(mss, (flags & 2U) != 0, timestamps, (flags & 8U) != 0, now);
    const bool limited = (flags & 16U) != 0;

    while (!input.empty()) {
        const auto what = input.take<std::uint8_t>();
        switch (what % 8) {
        case 0:
        case 1:
        case 2: {
            std::array<SackBlock, 5> blocks;
            const std::size_t count = (what >> 3) % 6;
            for (std::size_t i = 0; i < count; ++i)
                blocks[i] = {near_flight(input, sender), near_flight(input, sender)};
            Acknowledgement ack{.ack = what % 8 == 0 ? sender.una() : near_flight(input, sender),
                                .sack = {blocks.data(), count},
                                .pure = (what & 64U) != 0,
                                .ece = (what & 128U) != 0,
                                .ts_echo = {}};
            if (timestamps) ack.ts_echo = timestamp_ticks(now) - input.take<std::uint16_t>();
            const std::uint32_t flight = sender.flight_bytes();
            CHECK(sender.on_acknowledgement(ack, now).acked_bytes <= flight);
            break;
        }
        case 3:
            now += std::chrono::microseconds{input.take<std::uint16_t>()};
            break;
        case 4:
            if (const TimePoint deadline = sender.deadline(); deadline != TimePoint::max()) {
                now = std::max(now, deadline);
                if (sender.on_timer(now) == SenderTimer::none) CHECK(sender.deadline() > deadline);
            }
            break;
        case 5:
            if ((what & 8U) != 0) {
                mss = std::max<std::uint32_t>(input.take<std::uint16_t>() % 9000, 48);
                sender.set_mss(mss);
            }
            if ((what & 16U) != 0) sender.resend_all(now);
            if ((what & 32U) != 0) sender.on_unreachable(near_flight(input, sender));
            if ((what & 64U) != 0) sender.shrink();
            break;
        default:
            send_what_is_allowed(sender, now, mss, what >> 3, limited);
            break;
        }
        sender.debug_check();
        CHECK(sender.scoreboard().capacity() <= records_max);
    }

    // The peer becomes honest: it acknowledges what comes, in order, a millisecond later.
    for (int round = 0; sender.flight_bytes() > 0; ++round) {
        CHECK(round < 20'000);
        while (const auto range = sender.retransmission(now)) {
            CHECK(sender.sent(range->begin, range->end, now, true));
            if (range->begin == sender.una()) {
                now += std::chrono::milliseconds{1};
                static_cast<void>(sender.on_acknowledgement(
                    {.ack = range->end, .sack = {}, .pure = true, .ts_echo = {}}, now));
                sender.debug_check();
            }
        }
        if (sender.flight_bytes() == 0) break;
        now = std::max(now, sender.deadline());
        if (sender.on_timer(now) == SenderTimer::probe) {
            if (const auto range = sender.probe())
                CHECK(sender.sent(range->begin, range->end, now, true));
        }
        sender.debug_check();
    }
    return 0;
}
