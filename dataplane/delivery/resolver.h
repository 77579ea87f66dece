// resolver.h: what delivery asks of the DNS.
//
// Scope      The interface, and the meaning of an MX answer: order, implicit MX, null MX (RFC 5321
//            §5.1, RFC 7505). Who asks the network is unbound_resolver.h; tests answer from a
//            table.
// Owns       Answers are shared between the cache and whoever still walks through their hosts
//            across awaits: that is why they come as shared_ptr.
// Threading  Bound to one shard.
// Failure    ResolveError. Only `temporary` may change by waiting.
#pragma once

#include "dataplane/base/address.h"
#include "dataplane/base/clock.h"
#include "dataplane/base/task.h"
#include "dataplane/base/wait.h"
#include "tls_offload/tls_stream.h"

#include <cstdint>
#include <expected>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace dataplane::delivery {

enum class ResolveError : std::uint8_t {
    no_such_domain, // NXDOMAIN
    no_mail,        // null MX: the domain says that it takes none
    no_data,        // the name exists and has nothing of the kind
    bad_name,       // no name that could be asked for
    temporary,      // SERVFAIL, timeout, a bogus signature, too many queries of ours
    cancelled,      // the caller's own doing
};
[[nodiscard]] std::string_view to_string(ResolveError error) noexcept;

struct MxRecord {
    std::uint16_t preference = 0;
    std::string host; // lower case, no trailing dot; "" is the root
};

struct MxSet {
    std::vector<MxRecord> hosts; // by preference; equals by name: who connects shuffles them
    bool implicit = false;       // no MX records: the domain itself (§5.1)
    bool secure = false;         // DNSSEC: signed, and the signatures are right
    base::TimePoint valid_until{};
};
using MxResult = std::expected<std::shared_ptr<const MxSet>, ResolveError>;

struct AddressSet {
    std::vector<base::IpAddress> addresses; // IPv4 first; at least one
    bool secure = false;                    // as MxSet's, of all of them
    base::TimePoint valid_until{};
};
using AddressResult = std::expected<std::shared_ptr<const AddressSet>, ResolveError>;

/// What a zone says about the certificate of a host's port (RFC 6698).
struct TlsaSet {
    std::vector<tls_offload::TlsaRecord> records; // empty: it says nothing
    bool secure = false; // as MxSet's; without it neither records nor their absence mean anything
    base::TimePoint valid_until{};
};
using TlsaResult = std::expected<std::shared_ptr<const TlsaSet>, ResolveError>;

class Resolver {
public:
    virtual ~Resolver() = default;
    /// \param domain  as to_ascii() makes it
    [[nodiscard]] virtual base::Task<MxResult> mx(std::string domain, base::Deadline deadline) = 0;
    /// \param host  a name; literals are their own answer and never come here
    [[nodiscard]] virtual base::Task<AddressResult> addresses(std::string host,
                                                              base::Deadline deadline) = 0;
    /// \param name  "_25._tcp.mx.example.com". No such name is an empty set, not an error. A resolver
    /// that does not validate says that nothing is secure.
    [[nodiscard]] virtual base::Task<TlsaResult> tlsa(std::string name, base::Deadline deadline);
};

/// What MX records mean for mail to `domain`. No records at all: the implicit MX.
[[nodiscard]] std::expected<MxSet, ResolveError> interpret_mx(std::string_view domain,
                                                              std::vector<MxRecord> records);

} // namespace dataplane::delivery
