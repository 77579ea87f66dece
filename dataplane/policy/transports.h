// transports.h: what can carry connections on this shard, by the name that the policy uses.
//
// Scope      Picks; nothing else. Both are built and owned by the daemon (or the simulation).
// Threading  One shard.
// Failure    A policy that asks for a transport that was not started with gets the kernel's: changing
//            that needs a restart, and reload says so.
#pragma once

#include "dataplane/base/stream.h"
#include "dataplane/policy/policy.h"

namespace dataplane::policy {

struct Transports {
    base::Transport& kernel;
    base::Transport* dpdk = nullptr; // absent: no port is configured

    [[nodiscard]] base::Transport& of(TransportKind kind) const noexcept {
        return kind == TransportKind::dpdk && dpdk != nullptr ? *dpdk : kernel;
    }
};

} // namespace dataplane::policy
