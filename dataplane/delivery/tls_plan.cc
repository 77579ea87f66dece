#include "dataplane/delivery/tls_plan.h"

#include <algorithm>

namespace dataplane::delivery {

using policy::TlsLevel;

TlsPlan plan_tls(TlsLevel wanted, std::string_view domain) {
    TlsPlan plan{.level = wanted};
    if (wanted == TlsLevel::secure && !domain.empty()) {
        // Not the MX host's name: who can forge the answer to an MX query could name a host whose
        // certificate is in perfect order.
        plan.peer_names = {std::string{domain}, "." + std::string{domain}};
    }
    return plan;
}

std::expected<TlsPlan, std::string> plan_dane(TlsLevel wanted, bool vouched,
                                              const TlsaResult& answer) {
    const bool only = wanted == TlsLevel::dane_only;
    if (!vouched) { // RFC 7672 §2.2: forged records would prove nothing
        if (only) return std::unexpected("DANE is required, but the host's records are not signed");
        return TlsPlan{};
    }
    if (!answer) {
        // §2.1.2: no answer is what an attacker would make of it. Never a downgrade.
        return std::unexpected("its TLSA records could not be looked up: " +
                               std::string{to_string(answer.error())});
    }
    const TlsaSet& set = **answer;
    if (!set.secure || set.records.empty()) {
        if (only) return std::unexpected("DANE is required, but the host has no TLSA records");
        return TlsPlan{};
    }
    TlsPlan plan{.level = TlsLevel::dane};
    std::ranges::copy_if(set.records, std::back_inserter(plan.tlsa), tls_offload::is_usable);
    if (!plan.tlsa.empty()) return plan;
    if (only) return std::unexpected("DANE is required, but none of the TLSA records is usable");
    plan.level = TlsLevel::encrypt; // §2.2: TLS, whoever it is
    return plan;
}

} // namespace dataplane::delivery
