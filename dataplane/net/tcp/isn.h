// isn.h: where a connection's sequence numbers and timestamps begin.
//
// Scope      RFC 6528: ISN = clock of 4 us + F(4-tuple, secret), so that numbers of one 4-tuple only
//            grow (a peer in TIME_WAIT takes the next SYN) and nobody else can guess them. The
//            timestamp offset is per pair of hosts (RFC 7323 §5.4): the clock does not show our uptime,
//            and stays monotonic for a peer that remembers it from the connection before.
// Failure    None; values.
#pragma once

#include "dataplane/base/address.h"
#include "dataplane/base/clock.h"
#include "dataplane/base/siphash.h"
#include "dataplane/net/tcp/seq.h"

#include <chrono>
#include <cstdint>

namespace dataplane::net::tcp {

namespace detail {

inline void add_address(base::SipMessage& message, const base::IpAddress& ip) noexcept {
    message.add_number(static_cast<std::uint8_t>(ip.is_v6() ? 6 : 4));
    message.add({ip.bytes().data(), ip.bit_count() / 8});
}

} // namespace detail

/// \param now  of a clock that keeps running over the life of `key`
[[nodiscard]] inline Seq initial_sequence(const base::SipKey& key, const base::SocketAddress& local,
                                          const base::SocketAddress& remote,
                                          base::TimePoint now) noexcept {
    base::SipMessage message(key);
    message.add_number(std::uint8_t{'I'}); // keeps the uses of one key apart
    detail::add_address(message, local.ip);
    detail::add_address(message, remote.ip);
    message.add_number(local.port);
    message.add_number(remote.port);
    const auto ticks =
        std::chrono::duration_cast<std::chrono::microseconds>(now.time_since_epoch()).count() / 4;
    return Seq{static_cast<std::uint32_t>(message.hash()) + static_cast<std::uint32_t>(ticks)};
}

[[nodiscard]] inline std::uint32_t timestamp_offset(const base::SipKey& key,
                                                    const base::IpAddress& local,
                                                    const base::IpAddress& remote) noexcept {
    base::SipMessage message(key);
    message.add_number(std::uint8_t{'T'});
    detail::add_address(message, local);
    detail::add_address(message, remote);
    return static_cast<std::uint32_t>(message.hash());
}

} // namespace dataplane::net::tcp
