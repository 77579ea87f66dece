#include "dataplane/loadgen/net_wire.h"

#include "dataplane/base/clock.h"
#include "dataplane/loadgen/child.h"
#include "dataplane/loadgen/runtime.h"
#include "dataplane/net/port/eal.h"
#include "dataplane/net/port/ethdev_port.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <thread>
#include <unistd.h>
#include <utility>

namespace dataplane::loadgen {
namespace {

using Json = nlohmann::ordered_json;
using namespace std::chrono_literals;

constexpr std::uint32_t frame_bytes = 2048;
// Both lines full, and what the devices have not given back yet.
constexpr std::uint32_t frame_count = 2 * net::impaired_frames + 8192;
constexpr base::Duration nap_max = 20us; // a frame is so late at most, on a line of milliseconds

/// One direction.
class Way {
public:
    Way(net::Port& from, net::Port& to, const LineQuality& quality, std::uint64_t seed,
        base::SlabPool& frames)
        : from_(from), to_(to), frames_(frames), line_(quality.way(), seed, frames) {}

    /// Whether any frame came or went.
    bool move(base::TimePoint now) {
        const bool came = take_in(now);
        const bool went = put_out(now);
        return came || went;
    }
    [[nodiscard]] base::TimePoint next_event() const noexcept { return line_.next_event(); }
    [[nodiscard]] Json fates() const {
        const net::ImpairmentCounters& counters = line_.counters();
        return {{"entered", counters.entered},
                {"left", counters.left},
                {"lost", counters.lost},
                {"queue_full", counters.queue_full},
                {"line_full", counters.line_full},
                {"no_buffer", no_buffer_},
                {"too_long", too_long_}};
    }

private:
    bool take_in(base::TimePoint now) {
        std::array<net::ReceivedFrame, net::receive_burst_max> burst;
        const std::size_t count = from_.receive(burst);
        const auto came = std::span{burst}.first(count);
        for (const net::ReceivedFrame& frame : came) {
            if (frame.bytes.size() > frame_bytes) {
                ++too_long_; // segmentation was left on
                continue;
            }
            net::LineFrame copy{.slab = frames_.take(),
                                .bytes = static_cast<std::uint32_t>(frame.bytes.size())};
            if (!copy.slab) {
                ++no_buffer_;
                continue;
            }
            std::memcpy(copy.slab.data(), frame.bytes.data(), frame.bytes.size());
            line_.push(std::move(copy), now);
        }
        from_.release(came);
        return count > 0;
    }

    bool put_out(base::TimePoint now) {
        bool went = false;
        for (;;) {
            net::LineFrame frame = waiting_.slab ? std::exchange(waiting_, {}) : line_.pop(now);
            if (!frame.slab) break;
            const auto header = std::min<std::uint32_t>(frame.bytes, net::frame_header_bytes_max);
            const net::FrameSlice rest{frame.slab.get(), header, frame.bytes - header};
            const net::TransmitFrame out{.header = frame.span().first(header),
                                         .payload = {&rest, rest.bytes > 0 ? 1U : 0U}};
            if (to_.send(out) != net::SendResult::queued) {
                waiting_ = std::move(frame);
                break;
            }
            went = true;
        }
        if (went || waiting_.slab) to_.flush();
        return went;
    }

    net::Port& from_;
    net::Port& to_;
    base::SlabPool& frames_;
    net::ImpairedLine line_;
    net::LineFrame waiting_; // the device took no more
    std::uint64_t no_buffer_ = 0;
    std::uint64_t too_long_ = 0;
};

} // namespace

net::ImpairmentOptions LineQuality::way() const {
    net::ImpairmentOptions options;
    options.loss = loss;
    options.delay = delay;
    options.jitter = jitter;
    options.rate_bits_per_s = rate_mbit_per_s * 1'000'000;
    options.queue_bytes = queue_kb * 1024;
    return options;
}

int run_net_wire(const NetWireCommand& command) {
    catch_signals();
    be_punctual();
    const auto must = [](auto result) {
        if (!result) throw std::runtime_error(result.error().text);
        return std::move(*result);
    };
    net::Eal eal =
        must(net::Eal::start({.huge_pages = false,
                              .memory_mb = command.memory_mb,
                              .file_prefix = "millrace-wire-" + std::to_string(getpid())}));
    base::SlabPool frames(frame_bytes, frame_count); // outlives the ports, which hold some
    const auto open = [&](const std::string& device) {
        return must(net::EthdevPort::open({.device = must(eal.add_device(device))}));
    };
    const auto a = open(command.devices[0]);
    const auto b = open(command.devices[1]);
    const auto thread = must(net::ShardThread::enter());
    const base::RealClock clock;
    // A seed for each direction: the ACKs must not be lost in step with the data.
    Way there(a->queue(0), b->queue(0), command.line, command.line.seed * 2, frames);
    Way back(b->queue(0), a->queue(0), command.line, command.line.seed * 2 + 1, frames);
    say("ready");
    for (;;) {
        const SignalsSeen signals = take_signals();
        if (signals.stop) break;
        if (signals.report) say("at " + Json{there.fates(), back.fates()}.dump());
        const base::TimePoint now = clock.now();
        const bool there_moved = there.move(now);
        const bool back_moved = back.move(now);
        if (there_moved || back_moved) continue;
        const base::TimePoint next = std::min(there.next_event(), back.next_event());
        if (next > now) std::this_thread::sleep_for(std::min(next - now, nap_max));
    }
    return 0;
}

} // namespace dataplane::loadgen
