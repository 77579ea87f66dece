// offload_host.h: the offload engine's backends of this process, from the policy's start-up settings.
//
// Scope      Options, and the one thing that tls_offload cannot do for itself: have DPDK started, once,
//            whether a [[port]] needs it as well or not.
// Owns       The backends' host, the crypto device, and DPDK's environment where no port has it.
// Threading  main's; chain() is asked by each shard for itself.
// Failure    open() returns a sentence with the remedy.
#pragma once

#include "dataplane/net/port/eal.h"
#include "dataplane/policy/policy.h"
#include "tls_offload/engine/cryptodev.h"
#include "tls_offload/engine/host.h"

#include <expected>
#include <memory>
#include <optional>
#include <string>

namespace dataplane::daemon {

/// DPDK's arguments as far as [dpdk] and [offload] say them; a port adds its own.
[[nodiscard]] net::EalOptions eal_options(const policy::StartUp& start_up);

class OffloadHost {
public:
    /// \param dpdk_is_up  a port has started it
    [[nodiscard]] static std::expected<std::unique_ptr<OffloadHost>, std::string>
    open(const policy::StartUp& start_up, bool dpdk_is_up);

    [[nodiscard]] tls_offload::offload::Host& backends() noexcept { return *host_; }

private:
    OffloadHost() = default;

    std::optional<net::Eal> eal_; // only without a port
    std::unique_ptr<tls_offload::offload::Cryptodev> device_;
    std::unique_ptr<tls_offload::offload::Host> host_; // goes first
};

} // namespace dataplane::daemon
