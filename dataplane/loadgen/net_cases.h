// net_cases.h: what millrace-bench net does on a transport, whichever it is: the same coroutines run over
// kernel sockets and over our own stack, so that only the transport differs.
//
// Scope      Cases: `short` (connect, 600 B each way, close), `request` (600 B each way on open
//            connections), `bulk` (one direction, as fast as it goes), `idle` (connections that only stay).
//            For tests against other TCPs: `echo` (all that comes goes back, until the peer's end), `half_close`
//            (600 B, our end, then what the peer still has to say).
// Owns       The tasks it spawns on the Loop; Loop::drop_tasks() ends them.
// Failure    A failed connection is counted and tried again; the tally says how many failed.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/slab.h"
#include "dataplane/base/stream.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace dataplane::loadgen {

enum class NetCase : std::uint8_t { short_connections, request, bulk, idle, echo, half_close };
/// "short", "request", "bulk", "idle", "echo", "half_close"; nothing for any other word.
[[nodiscard]] std::optional<NetCase> net_case(std::string_view name) noexcept;
[[nodiscard]] std::string_view to_string(NetCase which) noexcept;

struct NetTally {
    std::uint64_t exchanges = 0; // finished connections, or round trips (request)
    std::uint64_t bytes = 0;     // received payload
    std::uint64_t open = 0;      // connections open now
    std::uint64_t failed = 0;    // connections that could not be made, or broke
};

/// Answers every case on one port, told apart by the connection's first byte. Accepts until the Loop ends.
class NetServer {
public:
    NetServer(base::Loop& loop, base::Transport& transport) noexcept
        : loop_(loop), transport_(transport) {}
    [[nodiscard]] base::NetResult<base::SocketAddress> listen(const base::SocketAddress& local);
    [[nodiscard]] const NetTally& tally() const noexcept { return tally_; }

private:
    base::Task<void> accept_all(base::Listener& listener);
    base::Task<void> serve(base::StreamPtr stream);
    base::Task<void> take_bulk(base::Stream& stream);
    base::Task<void> answer(base::Stream& stream, NetCase which);

    base::Loop& loop_;
    base::Transport& transport_;
    std::vector<std::unique_ptr<base::Listener>> listeners_;
    std::vector<base::StreamPtr> idle_;
    NetTally tally_;
};

struct NetClientOptions {
    NetCase which = NetCase::request;
    std::size_t connections = 64;             // at the same time
    std::vector<base::SocketAddress> servers; // taken in turn
    std::vector<base::IpAddress> sources;     // taken in turn; empty: the transport chooses
};

class NetClient {
public:
    /// \param pool  of one slab, for `bulk`; outlives the transport, which holds on to what it sends
    NetClient(base::Loop& loop, base::Transport& transport, base::SlabPool& pool,
              NetClientOptions options);
    void start();
    /// `idle`: all connections are open or have failed.
    [[nodiscard]] bool settled() const noexcept {
        return tally_.open + tally_.failed >= options_.connections;
    }
    [[nodiscard]] const NetTally& tally() const noexcept { return tally_; }

private:
    /// What is done on one connection: true when it came to its end as it should.
    using Use = base::Task<bool> (NetClient::*)(base::Stream& stream);
    [[nodiscard]] static Use use_of(NetCase which) noexcept;

    [[nodiscard]] base::Task<base::StreamPtr> open();
    base::Task<void> run(Use use); // one connection after another
    base::Task<void> run_idle();
    base::Task<bool> ask_once(base::Stream& stream);
    base::Task<bool> ask_on(base::Stream& stream);
    base::Task<bool> pour(base::Stream& stream);
    base::Task<bool> echo_all(base::Stream& stream);
    base::Task<bool> say_and_listen(base::Stream& stream);

    base::Loop& loop_;
    base::Transport& transport_;
    NetClientOptions options_;
    std::size_t next_ = 0;     // of servers and sources
    base::SlabRef bulk_bytes_; // the same again and again, never written after the start
    NetTally tally_;
};

} // namespace dataplane::loadgen
