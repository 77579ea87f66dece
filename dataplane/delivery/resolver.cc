#include "dataplane/delivery/resolver.h"

#include "dataplane/delivery/limits.h"

#include <algorithm>
#include <tuple>

namespace dataplane::delivery {

std::string_view to_string(ResolveError error) noexcept {
    switch (error) {
    case ResolveError::no_such_domain:
        return "domain does not exist";
    case ResolveError::no_mail:
        return "domain does not accept mail";
    case ResolveError::no_data:
        return "name has no address";
    case ResolveError::bad_name:
        return "not a valid domain name";
    case ResolveError::temporary:
        return "name resolution failed for now";
    case ResolveError::cancelled:
        return "cancelled";
    }
    return "";
}

std::expected<MxSet, ResolveError> interpret_mx(std::string_view domain,
                                                std::vector<MxRecord> records) {
    MxSet set;
    if (records.empty()) {
        set.implicit = true;
        set.hosts.push_back({0, std::string{domain}});
        return set;
    }
    // RFC 7505 §3: a lone "MX 0 .". Beside others the root is a mistake, and no host to connect to.
    if (records.size() == 1 && records[0].host.empty())
        return std::unexpected(ResolveError::no_mail);
    std::erase_if(records, [](const MxRecord& record) { return record.host.empty(); });
    if (records.empty()) return std::unexpected(ResolveError::no_mail);

    std::ranges::sort(records, {}, [](const MxRecord& record) {
        return std::tie(record.preference, record.host);
    });
    // One host under two preferences counts once, where it is liked best.
    std::vector<MxRecord> hosts;
    for (MxRecord& record : records) {
        const bool known = std::ranges::any_of(
            hosts, [&](const MxRecord& seen) { return seen.host == record.host; });
        if (!known && hosts.size() < mx_hosts_max) hosts.push_back(std::move(record));
    }
    set.hosts = std::move(hosts);
    return set;
}

base::Task<TlsaResult> Resolver::tlsa(std::string, base::Deadline) {
    co_return std::make_shared<const TlsaSet>();
}

} // namespace dataplane::delivery
