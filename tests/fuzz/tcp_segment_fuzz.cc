// Any bytes are TCP segments, in any order, at any time, to a connection in any state: nothing breaks, output
// ends, deadlines move, memory is bounded and comes back.
//
// The first byte chooses the state to begin in. Then records: an action byte, a length, and so many bytes.
#include "dataplane/base/check.h"
#include "dataplane/net/tcp/connection.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace {

using namespace dataplane::net::tcp;
namespace base = dataplane::base;
using namespace std::chrono_literals;

const Seq our_first{0xffff'ff00}; // wraps soon
const Seq peer_first{0x7fff'ff00};

class Run {
public:
    Run() : receive_slabs_(512, 64), send_slabs_(512, 64) {
        config_.receive_bytes_max = 16'384;
        config_.send_bytes_max = 16'384;
        connection_.emplace(environment_);
    }
    ~Run() {
        connection_.reset();
        CHECK(receive_slabs_.free_count() == receive_slabs_.slab_count());
        CHECK(send_slabs_.free_count() == send_slabs_.slab_count());
    }

    void reach(unsigned state) {
        Connection& c = *connection_;
        if (state % 2 == 0) {
            c.open(our_first, 1460, 77, now_);
            pump();
            if (state == 0) return;
            give(flag::syn | flag::ack, peer_first, our_first + 1);
        } else {
            Segment syn;
            syn.seq = peer_first;
            syn.flags = flag::syn;
            syn.options.window_scale = 7;
            syn.options.sack_permitted = true;
            syn.options.timestamps = Timestamps{1, 0};
            c.accept(syn, our_first, 1460, 77, now_);
            pump();
            if (state == 1) return;
            give(flag::ack, peer_first + 1, our_first + 1);
        }
        switch (state / 2) {
        case 1:
            break; // ESTABLISHED
        case 2:
            finish();
            break; // FIN_WAIT_1
        case 3:
            finish(), give(flag::ack, peer_first + 1, our_first + 2);
            break; // FIN_WAIT_2
        case 4:
            give(flag::ack | flag::fin, peer_first + 1, our_first + 1);
            break; // CLOSE_WAIT
        case 5:
            finish(), give(flag::ack | flag::fin, peer_first + 1, our_first + 1);
            break; // CLOSING
        case 6:
            give(flag::ack | flag::fin, peer_first + 1, our_first + 1), finish();
            break; // LAST_ACK
        case 7:
            finish(), give(flag::ack | flag::fin, peer_first + 1, our_first + 2);
            break; // TIME_WAIT
        default:
            break;
        }
    }

    void act(std::uint8_t action, std::span<const std::byte> bytes) {
        Connection& c = *connection_;
        switch (action % 12) {
        case 0:
            c.consume(std::min<std::size_t>(bytes.size(), c.unread().size()), now_);
            break;
        case 1:
            static_cast<void>(c.write(bytes));
            break;
        case 2:
            now_ += std::chrono::milliseconds{bytes.size() * bytes.size()};
            break;
        case 3:
            c.shutdown_write(now_);
            break;
        case 4:
            if (bytes.size() > 60) c.close(now_);
            break;
        case 5:
            c.on_path_mtu(static_cast<std::uint16_t>(bytes.size() * 16), c.sender().una(), now_);
            break;
        case 6:
            c.on_unreachable(bytes.size() > 60 ? Connection::Unreachable::hard
                                               : Connection::Unreachable::soft,
                             base::NetError::unreachable, c.sender().una(), now_);
            break;
        default:
            receive(bytes);
            break;
        }
        timers();
        pump();
        static_cast<void>(c.take_events());
        CHECK(c.sender().una() <= c.sender().nxt());
    }

private:
    void give(std::uint8_t flags, Seq seq, Seq ack) {
        Segment segment;
        segment.seq = seq;
        segment.ack = ack;
        segment.flags = flags;
        segment.window = 5000;
        segment.options.sack_permitted = true;
        segment.options.timestamps = Timestamps{2, 78};
        connection_->receive(segment, now_);
        pump();
    }
    void finish() {
        connection_->shutdown_write(now_);
        pump();
    }
    void receive(std::span<const std::byte> bytes) {
        auto segment = parse(bytes);
        if (!segment) return;
        CHECK(segment->payload.size() <= bytes.size());
        CHECK(segment->options.sack_count <= sack_blocks_max);
        static_cast<void>(reset_for(*segment));
        // Near the connection's own numbers, or no input would ever pass the windows.
        const auto near = [](Seq origin, Seq wild) {
            return origin + static_cast<std::uint32_t>(static_cast<std::int16_t>(wild.raw()));
        };
        if ((segment->seq.raw() >> 24) != 0xee)
            segment->seq = near(connection_->rcv_nxt(), segment->seq);
        if ((segment->ack.raw() >> 24) != 0xee)
            segment->ack = near(connection_->sender().nxt(), segment->ack);
        for (SackBlock& block : segment->options.sack) {
            block.begin = near(connection_->sender().una(), block.begin);
            block.end = near(connection_->sender().una(), block.end);
        }
        connection_->receive(*segment, now_);
    }
    void timers() {
        unsigned count = 0;
        while (connection_->deadline() <= now_) {
            connection_->on_timer(now_);
            pump();
            CHECK(++count < 1000);
        }
    }
    void pump() {
        Outgoing out;
        unsigned count = 0;
        while (connection_->next_segment(out, 4000, now_)) {
            CHECK(++count < 10'000);
            std::array<base::SlabView, 32> slices;
            const std::size_t used = connection_->payload(out, slices);
            std::uint32_t bytes = 0;
            for (std::size_t i = 0; i < used; ++i)
                bytes += slices[i].length;
            CHECK(bytes == out.payload_bytes);
            std::array<std::byte, header_bytes_max> head;
            const std::size_t length =
                encode(head, {.seq = out.seq, .flags = out.flags, .options = out.options});
            CHECK(parse(std::span{head}.first(length)).has_value());
        }
        CHECK(!connection_->wants_output(now_));
    }

    Config config_;
    base::SlabPool receive_slabs_;
    base::SlabPool send_slabs_;
    ConnectionCounters counters_;
    std::minstd_rand random_{1};
    Environment environment_{config_, receive_slabs_, send_slabs_, counters_, random_};
    std::optional<Connection> connection_;
    base::TimePoint now_{1000s};
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    std::span<const std::byte> rest = std::as_bytes(std::span{data, size});
    Run run;
    run.reach(static_cast<unsigned>(rest[0]) % 16);
    rest = rest.subspan(1);
    while (rest.size() >= 2) {
        const auto action = static_cast<std::uint8_t>(rest[0]);
        const std::size_t length =
            std::min<std::size_t>(static_cast<std::size_t>(rest[1]), rest.size() - 2);
        run.act(action, rest.subspan(2, length));
        rest = rest.subspan(2 + length);
    }
    return 0;
}
