// syn_cookie.h: answers SYNs without remembering them, when a listener is flooded.
//
// Scope      The answer's sequence number is 5 bits of time slot, 3 bits of MSS index and 24 bits of a
//            keyed hash over addresses, the peer's number, slot, MSS and options. What a SYN's options said
//            comes back in the echo of our timestamp, whose low 6 bits they are; without timestamps
//            a connection out of a cookie has no window scale and no SACK.
// Owns       A key.
// Threading  None; const after construction.
// Failure    check() refuses what is older than one to two minutes, and what it did not make. A guess has one chance in
//            2^24 for each slot, and what it yields is a connection, no more.
#pragma once

#include "dataplane/base/address.h"
#include "dataplane/base/clock.h"
#include "dataplane/base/siphash.h"
#include "dataplane/net/tcp/config.h"
#include "dataplane/net/tcp/segment.h"

#include <cstdint>
#include <optional>

namespace dataplane::net::tcp {

class SynCookies {
public:
    explicit SynCookies(const base::SipKey& key) noexcept : key_(key) {}

    /// The SYN-ACK for `syn`, complete but for its checksum.
    /// \param local   where the SYN went to
    /// \param mss, ts_offset  as Connection::accept() would get them
    [[nodiscard]] Header answer(const Segment& syn, const base::SocketAddress& local,
                                const base::SocketAddress& remote, const Config& config,
                                std::uint16_t mss, std::uint32_t ts_offset,
                                base::TimePoint now) const noexcept;

    struct Accepted { // arguments of Connection::accept_cookie()
        Seq iss;
        Options syn_options;
    };
    /// Whether `ack` completes a handshake that answer() began.
    [[nodiscard]] std::optional<Accepted>
    check(const Segment& ack, const base::SocketAddress& local, const base::SocketAddress& remote,
          std::uint32_t ts_offset, base::TimePoint now) const noexcept;

private:
    [[nodiscard]] std::uint32_t hash(const base::SocketAddress& local,
                                     const base::SocketAddress& remote, Seq peer_first,
                                     std::uint32_t slot_and_mss,
                                     std::uint32_t option_bits) const noexcept;
    base::SipKey key_;
};

} // namespace dataplane::net::tcp
