// stack.h: one shard's TCP/IP: a port, the IP layer, and every connection of the shard.
//
// Scope      Demultiplexing, listeners with SYN cookies under flood, TIME_WAIT, port allocation, output
//            scheduling, the timers of connections; as a base::Transport. What a connection does is
//            tcp/connection.h's; the working parts are in engine.h.
// Owns       Connections, from open to the end of TIME_WAIT.
// Threading  One shard; other shards reach it through steering.h.
// Failure    As base::Transport says. Construction throws std::bad_alloc (start-up).
//
// Destroy it before its Loop and its port, and after every Stream, Listener and task that came from it
// (Loop::drop_tasks() ends the tasks). Views that a Stream was given to write are held until the port has
// given them back as well.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/stream.h"
#include "dataplane/net/ip/layer.h"
#include "dataplane/net/port/port.h"
#include "dataplane/net/stack/limits.h"
#include "dataplane/net/stack/time_wait.h"
#include "dataplane/net/tcp/config.h"
#include "dataplane/net/tcp/connection.h"

#include <array>
#include <cstdint>
#include <memory>
#include <span>

namespace dataplane::net::stack {

class Engine;

struct StackOptions {
    tcp::Config tcp;
    std::size_t connections_max = 1'000'000;
    std::uint32_t receive_slab_bytes = 4096;
    std::uint32_t receive_slabs = 16384;
    std::uint32_t send_slab_bytes = 4096;
    std::uint32_t send_slabs = 16384;
    std::size_t half_open_max = 4096;      // beyond: SYN cookies
    std::size_t time_wait_max = 1U << 20;  // beyond: the oldest goes
    std::array<std::uint64_t, 2> secret{}; // for ISN, ports, cookies; drawn at start
    unsigned shard_count = 1;
    unsigned shard = 0; // ours; used when the port does not spread by RSS itself
    base::Duration close_limit = stack::close_limit;
    // 0: what close() finds unread, or what comes after it, is answered with a reset at once.
    std::uint32_t linger_bytes_max = stack::linger_bytes_max;
    std::size_t orphans_max = stack::orphans_max;
    base::Duration proxy_limit = stack::proxy_limit;
};

/// What the stack itself counts; see StackStatistics for the rest.
struct StackCounters {
    std::uint64_t segments_malformed = 0; // header that contradicts itself
    std::uint64_t segments_land = 0;      // from ourselves to ourselves
    std::uint64_t segments_unknown = 0;   // of no connection
    std::uint64_t resets_unknown = 0;     // sent to those
    std::uint64_t resets_suppressed = 0;  // not sent: resets_per_second
    std::uint64_t syns = 0;               // to a listener
    std::uint64_t syn_dropped = 0; // the accept queue is full, or there is no memory for more
    std::uint64_t cookies_sent = 0;
    std::uint64_t cookies_accepted = 0;
    std::uint64_t cookies_bad = 0;
    std::uint64_t accepted = 0;
    std::uint64_t accept_overflow =
        0;                            // complete handshakes that found the accept queue full: reset
    std::uint64_t refused_at_max = 0; // ListenOptions::connections_max
    std::uint64_t proxy_refused = 0;  // no good PROXY header in time
    std::uint64_t connected = 0;
    std::uint64_t connect_errors = 0; // deadlines and cancellations included
    std::uint64_t no_port = 0;
    std::uint64_t aborted = 0; // by their Streams, and closes whose bytes did not leave in time
    std::uint64_t closed_unread = 0; // closes that found something unread: these end with a reset
    std::uint64_t orphans_reset = 0; // the oldest of too many
    std::uint64_t parked = 0;        // segments that waited for a next hop's address
    std::uint64_t answers_held = 0;  // to no connection, sent when their next hop was known
    std::uint64_t answers_dropped =
        0; // of those, whose next hop was not found, or that were too many
    std::uint64_t output_stalls = 0;  // turns in which the port took no more
    std::uint64_t output_budget = 0;  // turns that left output to the next
    std::uint64_t timer_budget = 0;   // turns that left timers to the next
    std::uint64_t payload_copied = 0; // segments of too many pieces for a frame
    std::uint64_t slabs_starved = 0;  // writers that waited for a send slab
};

/// All there is to know about a shard's stack, as it is now.
struct StackStatistics {
    StackCounters stack;
    tcp::ConnectionCounters tcp;
    ip::LayerCounters ip;
    PortCounters port;
    TimeWaitCounters time_wait;
    std::size_t connections = 0; // all that are not in TIME_WAIT
    std::size_t half_open = 0;   // of those, at listeners
    std::size_t orphans = 0;     // of those, closed by their owners
    std::size_t time_waiting = 0;
    std::size_t flow_table_entries = 0;
    std::uint32_t receive_slabs_free = 0, receive_slabs_total = 0;
    std::uint32_t send_slabs_free = 0, send_slabs_total = 0;
};

struct ConnectionView {
    base::SocketAddress local;
    base::SocketAddress remote;
    tcp::State state = tcp::State::closed;
    bool outgoing = false;  // we opened it
    std::uint32_t cwnd = 0; // bytes
    std::uint32_t flight_bytes = 0;
    std::size_t unsent_bytes = 0;
    std::size_t unread_bytes = 0; // of those the part that lies in one piece
    std::uint32_t mss = 0;
    base::Duration smoothed_rtt{};
    base::Duration rto{};
    unsigned backoff_count = 0;
    bool in_recovery = false;
};

class Stack final : public base::Transport {
public:
    Stack(base::Loop& loop, Port& port, ip::LayerOptions ip, StackOptions options);
    ~Stack() override;
    Stack(const Stack&) = delete;
    Stack& operator=(const Stack&) = delete;

    /// Once per turn, before the loop's: takes what the port has, works it off. Returns how many frames.
    /// What there is to send leaves at the end of the loop's turn.
    std::size_t poll();
    /// When the stack wants to be polled again even if nothing arrives; max() for never. The Loop's own
    /// timers know as well, to the millisecond.
    [[nodiscard]] base::TimePoint next_due() const noexcept;

    [[nodiscard]] base::NetResult<std::unique_ptr<base::Listener>>
    listen(const base::SocketAddress& local, const base::ListenOptions& options) override;
    [[nodiscard]] base::Task<base::NetResult<base::StreamPtr>>
    connect(base::SocketAddress remote, std::optional<base::IpAddress> source,
            base::Deadline deadline) override;

    [[nodiscard]] StackStatistics statistics() const noexcept;
    /// Fills in up to views.size() connections and returns how many. `cursor` starts at 0 and is moved on;
    /// fewer than asked for means that these were the last.
    [[nodiscard]] std::size_t list(std::span<ConnectionView> views, std::size_t& cursor) const;
    [[nodiscard]] std::size_t connection_count() const noexcept;

    /// Neighbours: what this shard alone has heard, and what others have (steering.h).
    void on_learned(ip::Layer::OnLearned handler);
    void learn(const base::IpAddress& ip, const MacAddress& mac);

    [[nodiscard]] Engine& engine() noexcept { return *engine_; }

private:
    std::unique_ptr<Engine> engine_;
};

} // namespace dataplane::net::stack
