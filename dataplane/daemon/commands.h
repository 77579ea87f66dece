// commands.h: an operator's commands, carried out on one shard.
//
// Scope      ShardCommands over one Relay: list, show, count, flush, suspend, resume, status; and over
//            the shard's TCP/IP, where it has one (net_commands.h). Replies are JSON objects that
//            control_link.h merges over the shards.
// Threading  The shard's.
// Failure    {"error":"..."} for a message id that does not parse.
#pragma once

#include "dataplane/daemon/queue_operations.h"
#include "dataplane/daemon/relay.h"
#include "dataplane/policy/control_link.h"
#include "dataplane/policy/net_commands.h"
#include "tls_offload/engine/engine.h"

#include <optional>
#include <string>

namespace dataplane::daemon {

class RelayCommands final : public policy::ShardCommands {
public:
    RelayCommands(base::Loop& loop, const policy::PolicySlot& policy) noexcept
        : loop_(loop), policy_(policy) {}
    /// The relay that commands are about; it is made after the link it stands on. No command runs before.
    void serve(Relay& relay) noexcept { relay_ = &relay; }
    /// The shard's own TCP/IP; without it those commands say that there is none.
    void serve(policy::NetCommands& net) noexcept { net_ = &net; }
    void serve(const tls_offload::offload::Engine& offload) noexcept { offload_ = &offload; }
    std::string run(const policy::ShardCommand& command) override;
    void start(const policy::ShardCommand& command,
               std::function<void(std::string)> answer) override;

private:
    base::Loop& loop_;
    Relay* relay_ = nullptr;
    std::optional<QueueOperations> operations_;
    policy::NetCommands* net_ = nullptr;
    const tls_offload::offload::Engine* offload_ = nullptr;
    const policy::PolicySlot& policy_;
};

} // namespace dataplane::daemon
