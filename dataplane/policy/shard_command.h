// shard_command.h: an operator's command as a shard gets it.
//
// Scope      Values, and the interface of whoever carries a command out. How commands travel is
//            control_link.h's; what those about TCP/IP mean is net_commands.h's.
// Threading  Values; run() on the shard.
#pragma once

#include "dataplane/base/address.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace dataplane::policy {

struct CaptureFilter {                                // everything that is given must match
    std::optional<base::SocketAddress> local, remote; // one connection, both its directions
    std::optional<base::IpAddress> address;           // at either end
    std::uint16_t port = 0;                           // at either end; 0: any

    [[nodiscard]] bool is_empty() const noexcept { return !local && !address && port == 0; }
};

struct CaptureRequest {
    std::uint64_t id = 0; // chosen by who started it: the same in start, read and stop
    CaptureFilter filter;
    std::uint64_t bytes = 0; // start: frames kept on this shard at most; read: handed out at most
    std::chrono::seconds time_max{0};
};

struct ShardCommand {
    enum class Kind : std::uint8_t {
        queue_list,      // {"messages":[{...}, ...],"total":n}
        queue_show,      // {"message":{...}} on the shard that has it, {} elsewhere
        queue_count,     // {"messages":n, "groups":{...}, ...}
        queue_flush,     // {"touched":n, "busy":n}
        queue_orders,    // {"taken":1}
        queue_end,       // {"touched":n, "busy":n, "pending":n}
        status,          // {"shards":[{...}]}
        net_connections, // these four: see net_commands.h
        capture_start,
        capture_read,
        capture_stop,
        offload, // {"shards":[{...}]}
    };
    Kind kind = Kind::status;
    std::string domain, tenant, account, sender, message_id; // empty selects everything
    std::uint32_t limit = 100; // of what is listed, over all shards; 0: none
    CaptureRequest capture;
    std::string arguments; // of the queue commands: a JSON object, see daemon/queue_operations.h
};

/// What the daemon does with a command on a shard.
class ShardCommands {
public:
    virtual ~ShardCommands() = default;
    /// Runs on the shard, between two turns. Returns a JSON object; over the shards numbers are
    /// summed, arrays joined, objects merged, and of anything else the first one stays.
    /// {"error":"..."} refuses.
    virtual std::string run(const ShardCommand& command) = 0;
    /// The same for what takes several turns: `answer` is called once, on the shard, now or later.
    virtual void start(const ShardCommand& command, std::function<void(std::string)> answer) {
        answer(run(command));
    }
};

} // namespace dataplane::policy
