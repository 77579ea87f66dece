// net_commands.h: what an operator may ask of a shard's own TCP/IP: its connections, and a capture.
//
// Scope      The interface that a shard with a port implements, and the JSON replies that are made of
//            its answers. A shard has one capture at a time: it is started with a filter and limits,
//            read in pieces while it runs, and ends by itself. Frames are pcapng blocks, which the
//            reader puts behind a header and into a file (control/cli/capture.h): no shard opens one.
// Threading  The shard's.
// Failure    {"error":"..."}: no port here, another capture runs, or this one is gone.
#pragma once

#include "dataplane/base/address.h"
#include "dataplane/policy/shard_command.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace dataplane::policy {

struct NetConnection {
    base::SocketAddress local, remote;
    std::string_view state; // "established"
    bool outgoing = false;  // we opened it
    std::chrono::microseconds rtt{0};
    std::uint32_t cwnd_bytes = 0, flight_bytes = 0, unsent_bytes = 0, unread_bytes = 0;
};

struct CaptureState {
    bool running = false;      // more may come
    std::uint64_t frames = 0;  // kept, since the start
    std::uint64_t dropped = 0; // wanted and not kept: the limit was reached
    /// Packet blocks of pcapng in whole, oldest first; their interface's number is the shard's. Valid
    /// until the shard's next turn.
    std::span<const std::byte> blocks;
};

class NetCommands {
public:
    virtual ~NetCommands() = default;
    /// Visits up to `limit` connections (0: all); returns how many there are.
    virtual std::size_t
    net_connections(std::uint32_t limit,
                    const std::function<void(const NetConnection&)>& visit) const = 0;
    /// A sentence when a capture runs already. One that has ended gives way, read or not.
    virtual std::expected<void, std::string> capture_start(const CaptureRequest& request) = 0;
    /// Hands out what was not read yet: at least one frame if there is any, and no more once
    /// `request.bytes` are reached. Nothing when the capture of this id is gone.
    virtual std::optional<CaptureState> capture_read(const CaptureRequest& request) = 0;
    /// Ends the capture of this id and forgets what was not read; false when it is gone.
    virtual bool capture_stop(std::uint64_t id) = 0;
};

/// Whether run_net_command() is for it.
[[nodiscard]] bool is_net_command(ShardCommand::Kind kind) noexcept;

/// \param net  null on a shard without a port
/// net_connections  {"connections":[{...}, ...],"total":n}
/// capture_start    {"shards":[n]}
/// capture_read     {"running":n,"frames":n,"dropped":n,"blocks":["pcapng blocks in base64"]}
/// capture_stop     {"stopped":n}
[[nodiscard]] std::string run_net_command(NetCommands* net, unsigned shard,
                                          const ShardCommand& command);

} // namespace dataplane::policy
