// attach.h: how this daemon becomes one that delivers a dead node's pool, and nothing else.
//
// Scope      The policy of such a process, made from this node's: the pool's own shard number, no
//            listeners, no port, and folders of its own, so that it can run beside the node's relay. What
//            it delivers never leaves the pool but by delivery: states go back into it, and reports on
//            what could not be delivered are queued in it. So no message is ever in two spools.
// Failure    A sentence for the operator.
#pragma once

#include "dataplane/policy/policy.h"

#include <expected>
#include <string>

namespace dataplane::daemon {

/// \param pool  path of the pool's file, which is left alone but for its superblock being read
/// \param key   of the dead node: a file or env:NAME; empty: this node's own
[[nodiscard]] std::expected<policy::PolicyPtr, std::string>
deliver_only(const policy::Policy& node, const std::string& pool, const std::string& key);

} // namespace dataplane::daemon
