// cert.h: `millracectl cert`: the relay's certificates, in use and in files.
//
// Scope      list and reload ask the running relay; check looks at files, before they are configured
//            or without a relay.
// Threading  One.
// Failure    Exit codes of output.h. check fails on what would be refused, and only tells of what is
//            merely to be known.
#pragma once

#include "control/cli/admin_client.h"

#include <string>
#include <vector>

namespace control::cli {

struct CertOptions {
    std::string certificate, key, ocsp;
    std::vector<std::string> names;
};

int cert_list(const AdminClient& client, bool json);
int cert_reload(const AdminClient& client, bool json);
int cert_check(const CertOptions& options, bool json);

} // namespace control::cli
