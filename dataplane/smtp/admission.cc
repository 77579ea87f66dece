#include "dataplane/smtp/admission.h"

namespace dataplane::smtp {

const ServerReply* objection_to_auth(const ClientStanding& standing) noexcept {
    return standing.tls || standing.plain_auth_allowed ? nullptr : &replies::auth_needs_tls;
}

const ServerReply* objection_to_mail(const ClientStanding& standing,
                                     const policy::Policy& policy) noexcept {
    if (!standing.account.empty()) {
        const policy::AccountPolicy* account = policy.account(standing.account);
        if (account == nullptr || !account->enabled) return &replies::account_disabled;
        // The password may be another now: the session's login proves nothing any more.
        if (account->generation != standing.account_generation) return &replies::account_changed;
        return nullptr;
    }
    switch (standing.listener) {
    case policy::ListenerKind::relay:
        return policy.is_relay_client(standing.client) ? nullptr : &replies::relaying_denied;
    case policy::ListenerKind::submission:
    case policy::ListenerKind::submissions:
        return objection_to_auth(standing) != nullptr ? &replies::tls_first
                                                      : &replies::auth_required;
    }
    return &replies::relaying_denied;
}

const ServerReply* objection_to_sender(const policy::AccountPolicy& account,
                                       const Path& sender) noexcept {
    if (account.sender_domains.empty() || sender.address.empty()) return nullptr;
    for (const std::string& domain : account.sender_domains) {
        if (equal_ignoring_case(domain, sender.domain)) return nullptr;
    }
    return &replies::sender_not_allowed;
}

const ServerReply& reply_to(queue::SpoolError error) noexcept {
    switch (error) {
    case queue::SpoolError::full:
        return replies::spool_full;
    case queue::SpoolError::overloaded:
    case queue::SpoolError::timed_out:
        return replies::spool_overloaded;
    case queue::SpoolError::too_large:
        return replies::too_large;
    case queue::SpoolError::read_only:
        return replies::spool_read_only;
    case queue::SpoolError::cancelled:
        return replies::shutting_down;
    case queue::SpoolError::write_failed:
    case queue::SpoolError::read_failed:
    case queue::SpoolError::damaged:
    case queue::SpoolError::forged:
    case queue::SpoolError::no_key:
        return replies::spool_failed;
    }
    return replies::spool_failed;
}

} // namespace dataplane::smtp
