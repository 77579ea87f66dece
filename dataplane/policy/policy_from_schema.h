// policy_from_schema.h: the published tables, checked value by value, as the policy that shards read.
//
// Scope      What a verified FlatBuffer may still say that makes no sense. Bytes, digests and versions are
//            snapshot.h's.
// Threading  Pure.
#pragma once

#include "control/schema/policy_generated.h"
#include "dataplane/policy/policy.h"

#include <string>

namespace dataplane::policy {

/// One bad value ends the whole conversion.
struct InvalidValue {
    std::string text; // "listener.address: not IP:PORT: ..."
};

/// \pre  every table of the root is there
/// \throws InvalidValue
[[nodiscard]] Policy policy_from_schema(control::schema::PolicyT& from);

} // namespace dataplane::policy
