// tcb.h: everything the stack keeps about one connection, apart from queued bytes.
//
// Scope      The machine (tcp/connection.h), its name, its place in the stack's lists, and who waits for it.
//            What a Stream does with it is tcp_stream.h's, what the network does engine.h's.
// Owns       The machine. References are held by the flow table (while segments may come for it), by its
//            Stream, by the accept queue and by every coroutine that waits.
// Threading  One shard.
#pragma once

#include "dataplane/base/ref.h"
#include "dataplane/base/stream.h"
#include "dataplane/net/ip/layer.h"
#include "dataplane/net/stack/deadline_wheel.h"
#include "dataplane/net/stack/flow_key.h"
#include "dataplane/net/stack/wait_list.h"
#include "dataplane/net/tcp/connection.h"

#include <cstdint>

namespace dataplane::net::stack {

class Engine;
class ListenPort;

/// Membership of the output list, or of those parked at a next hop.
struct OutputLink : base::detail::Link {
    ~OutputLink() { unlink(); }
};

// The order of bases and members leaves no gaps: a million idle connections have it.
class Tcb final : public OutputLink, public DeadlineWheel::Node, public base::RefCounted<Tcb> {
public:
    enum class Phase : std::uint8_t {
        half_open,  // a listener's, its handshake under way
        connecting, // ours, its handshake under way
        queued,     // a listener's, waiting for accept() or for its PROXY header
        open,       // a Stream's
        closing,    // closed by its Stream: staged bytes are leaving, or the peer's FIN is awaited
        orphan,     // nobody's: TCP ends it
    };

    static constexpr std::uint32_t no_orphan = ~std::uint32_t{0};
    static constexpr std::uint32_t lingered_bytes_max = (1U << 24) - 1; // where its counter stops

    Tcb(Engine& owner, tcp::Environment& environment, std::uint32_t number) noexcept;
    ~Tcb();

    std::uint32_t index;
    tcp::Connection connection;
    Engine& engine;
    FlowKey key;
    Phase phase = Phase::half_open;
    base::NetError failure = base::NetError::closed;
    ip::Path path;
    std::uint32_t lingered_bytes : 24 = 0; // what was dropped since close()
    std::uint32_t established : 1 = 0;     // the handshake came through, whatever happened since
    std::uint32_t write_shut : 1 = 0;      // shutdown_write() was called
    std::uint32_t waits_for_slab : 1 = 0;  // in the engine's list of starved writers
    std::uint32_t failed : 1 = 0;          // `failure` says how
    std::uint32_t ends_with_reset : 1 = 0; // close() found something unread
    std::uint32_t in_orphans : 1 = 0;
    std::uint32_t in_output : 1 = 0;        // linked there, not where those wait that are parked
    std::uint32_t orphan_older = no_orphan; // neighbours in the engine's list of orphans
    std::uint32_t orphan_newer = no_orphan;

    base::TimePoint close_at = base::TimePoint::max(); // the end of `closing`
    WaitList readable;
    WaitList writable;
    base::Ref<ListenPort> listener;   // counts us among its connections
    base::Ref<Tcb> attached;          // ourselves, while we are in the flow table
    base::Ref<Tcb> next;              // in the accept queue
    base::StreamInfo* info = nullptr; // made when first asked for

    [[nodiscard]] base::StreamInfo& stream_info();

private:
    friend class base::Ref<Tcb>;
    void retire() noexcept;
};
static_assert(sizeof(Tcb) <= 736,
              "an idle connection is to take 768 bytes, with its handle and its place "
              "in the tables");

} // namespace dataplane::net::stack
