// certificates.h: the policy's words about TLS as tls_offload takes them, and its answers for people.
//
// Scope      Translation. What keeps certificates new is tls_offload/keeper.h.
// Threading  main's and the control link's.
// Failure    None.
#pragma once

#include "dataplane/policy/policy.h"
#include "tls_offload/keeper.h"
#include "tls_offload/relief.h"

#include <string>

namespace dataplane::daemon {

/// \param own  the pair to offer TLS with when the policy names none
[[nodiscard]] tls_offload::TlsSettings tls_settings(const policy::Policy& policy,
                                                    const tls_offload::CertificateFiles& own);

/// {"certificates":[...]}
[[nodiscard]] std::string certificates_json(const tls_offload::Keeper& keeper);

[[nodiscard]] tls_offload::Relief relief_of(policy::OpensslRelief wanted) noexcept;

} // namespace dataplane::daemon
