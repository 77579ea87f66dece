// admission.h: who may send through this relay. The one place that decides it.
//
// Scope      Whether a client, as it stands now, may begin a mail, and with which sender. An
//            outbound relay has no local domains: whoever is neither logged in nor on a listed
//            network sends nothing.
// Threading  Pure.
// Failure    The reply to give; null when there is no objection.
#pragma once

#include "dataplane/base/address.h"
#include "dataplane/policy/policy.h"
#include "dataplane/smtp/command_parser.h"
#include "dataplane/smtp/server_reply.h"
#include "queue/queue.h"

#include <cstdint>
#include <string_view>

namespace dataplane::smtp {

struct ClientStanding {
    policy::ListenerKind listener = policy::ListenerKind::submission;
    bool plain_auth_allowed = false; // the listener lets AUTH happen without TLS
    bool tls = false;
    base::IpAddress client{};
    std::string_view account;             // logged in as; empty: not
    std::uint64_t account_generation = 0; // of the account at its login
};

/// Objection to AUTH. Passwords do not travel in the clear unless the operator says so.
[[nodiscard]] const ServerReply* objection_to_auth(const ClientStanding& standing) noexcept;
/// Objection to MAIL as such. A 421 among them ends the session.
[[nodiscard]] const ServerReply* objection_to_mail(const ClientStanding& standing,
                                                   const policy::Policy& policy) noexcept;
/// What a spool that will not take the mail means for the client (RFC 5321 §4.2, RFC 3463 §3).
[[nodiscard]] const ServerReply& reply_to(queue::SpoolError error) noexcept;

/// Objection to this sender. The null reverse-path is anyone's: it names no domain.
[[nodiscard]] const ServerReply* objection_to_sender(const policy::AccountPolicy& account,
                                                     const Path& sender) noexcept;

} // namespace dataplane::smtp
