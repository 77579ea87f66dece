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

class Tcb final : public base::RefCounted<Tcb>, public OutputLink, public DeadlineWheel::Node {
public:
    enum class Phase : std::uint8_t {
        half_open,  // a listener's, its handshake under way
        connecting, // ours, its handshake under way
        queued,     // a listener's, waiting for accept() or for its PROXY header
        open,       // a Stream's
        closing,    // closed by its Stream: staged bytes are leaving, or the peer's FIN is awaited
        orphan,     // nobody's: TCP ends it
    };

    Tcb(Engine& owner, tcp::Environment& environment, std::uint32_t number) noexcept;
    ~Tcb();

    tcp::Connection connection;
    Engine& engine;
    FlowKey key;
    std::uint32_t index;
    ip::Path path;

    Phase phase = Phase::half_open;
    bool established : 1 = false;    // the handshake came through, whatever happened since
    bool write_shut : 1 = false;     // shutdown_write() was called
    bool waits_for_slab : 1 = false; // in the engine's list of starved writers
    bool failed : 1 = false;         // `failure` says how
    base::NetError failure = base::NetError::closed;
    std::uint32_t lingered_bytes = 0;

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

} // namespace dataplane::net::stack
