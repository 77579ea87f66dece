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
    base::TimePoint valid_until{};
};
using MxResult = std::expected<std::shared_ptr<const MxSet>, ResolveError>;

struct AddressSet {
    std::vector<base::IpAddress> addresses; // IPv4 first; at least one
    base::TimePoint valid_until{};
};
using AddressResult = std::expected<std::shared_ptr<const AddressSet>, ResolveError>;

class Resolver {
public:
    virtual ~Resolver() = default;
    /// \param domain  as to_ascii() makes it
    [[nodiscard]] virtual base::Task<MxResult> mx(std::string domain, base::Deadline deadline) = 0;
    /// \param host  a name; literals are their own answer and never come here
    [[nodiscard]] virtual base::Task<AddressResult> addresses(std::string host,
                                                              base::Deadline deadline) = 0;
};

/// What MX records mean for mail to `domain`. No records at all: the implicit MX.
[[nodiscard]] std::expected<MxSet, ResolveError> interpret_mx(std::string_view domain,
                                                              std::vector<MxRecord> records);

} // namespace dataplane::delivery
