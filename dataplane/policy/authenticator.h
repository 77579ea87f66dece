// authenticator.h: whether a user name and password are right, as the SMTP server asks.
//
// Scope      The question and its answers. control_link.h answers it from the shard's cache or by
//            asking the control process; tests answer it from a table.
// Threading  Bound to one shard. Never blocks: an answer may take seconds when control hashes.
#pragma once

#include "dataplane/base/address.h"
#include "dataplane/base/task.h"
#include "dataplane/base/wait.h"

#include <cstdint>
#include <string>

namespace dataplane::policy {

enum class AuthVerdict : std::uint8_t {
    accepted,
    rejected,    // 535 5.7.8
    unavailable, // control did not answer in time: 454 4.7.0
    throttled,   // too many failures from this address or for this account: 454 4.7.0 after a delay
};

class Authenticator {
public:
    virtual ~Authenticator() = default;
    [[nodiscard]] virtual base::Task<AuthVerdict> verify(std::string user, std::string password,
                                                         base::IpAddress client,
                                                         base::Deadline deadline) = 0;
};

} // namespace dataplane::policy
