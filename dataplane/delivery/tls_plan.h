// tls_plan.h: what a connection to one host must be like, from the operator's level and the DNS.
//
// Scope      The rules of RFC 7672 §2 and §3.1 and of the other levels, without asking anybody: who
//            looks records up is the dispatcher, who holds certificates against them
//            tls_offload/peer.h.
// Threading  Pure.
// Failure    A sentence; the mail waits, and another host may do.
#pragma once

#include "dataplane/delivery/resolver.h"
#include "dataplane/policy/policy.h"
#include "tls_offload/tls_stream.h"

#include <expected>
#include <string>
#include <string_view>
#include <vector>

namespace dataplane::delivery {

struct TlsPlan {
    policy::TlsLevel level = policy::TlsLevel::may; // with dane, records; never dane_only
    std::vector<tls_offload::TlsaRecord> tlsa;
    std::vector<std::string> peer_names; // whom the certificate must be for; empty: the host
};

/// Whether the plan needs to be asked for: its zone may have a say.
[[nodiscard]] constexpr bool asks_zone(policy::TlsLevel level) noexcept {
    return level == policy::TlsLevel::dane || level == policy::TlsLevel::dane_only;
}

/// \param domain  at TlsLevel::secure the recipients'; empty for a route's own host
[[nodiscard]] TlsPlan plan_tls(policy::TlsLevel wanted, std::string_view domain);

/// The same where the zone has a say.
/// \param vouched  DNSSEC, or the operator, vouches for the host's name, and DNSSEC for its addresses
/// \param answer   of the TLSA query; looked at only when vouched
[[nodiscard]] std::expected<TlsPlan, std::string> plan_dane(policy::TlsLevel wanted, bool vouched,
                                                            const TlsaResult& answer);

} // namespace dataplane::delivery
