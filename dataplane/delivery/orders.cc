#include "dataplane/delivery/orders.h"

#include <algorithm>

namespace dataplane::delivery {

using queue::RecipientState;

bool same_text(std::string_view a, std::string_view b) noexcept {
    constexpr auto lower = [](char c) {
        return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    };
    return std::ranges::equal(a, b, {}, lower, lower);
}

bool MailFilter::empty() const noexcept {
    return domain.empty() && tenant.empty() && account.empty() && sender.empty() &&
           recipient.empty() && site.empty() && error.empty() && code == 0 && older_s == 0 && !id;
}

bool MailFilter::may_match(const queue::MessageIndex& index, const queue::Entry& entry,
                           base::WallTime now) const {
    const queue::TextTable& texts = index.texts();
    if (id && *id != entry.id) return false;
    if (!tenant.empty() && tenant != texts.text(entry.tenant)) return false;
    if (!account.empty() && account != texts.text(entry.account)) return false;
    if (!sender.empty() && queue::text_hash(sender) != entry.sender_hash) return false;
    const auto now_s = now.time_since_epoch().count() / 1000;
    if (older_s != 0 && now_s - entry.arrival_s < older_s) return false;

    const std::size_t at = recipient.rfind('@');
    const std::string_view wanted_domain = recipient.empty() ? std::string_view{domain}
                                           : at == std::string::npos
                                               ? std::string_view{recipient}
                                               : std::string_view{recipient}.substr(at + 1);
    const auto status = index.status(entry);
    if (!recipient.empty() && status.size() == 1 &&
        queue::text_hash(recipient) != entry.recipient_hash) {
        return false;
    }
    if (wanted_domain.empty() && code == 0) return true;
    const auto domains = index.domains(entry);
    for (std::size_t i = 0; i < status.size(); ++i) {
        if (status[i].state != RecipientState::pending) continue;
        if (!domain.empty() && !same_text(domain, texts.text(domains[i]))) continue;
        if (!wanted_domain.empty() && !same_text(wanted_domain, texts.text(domains[i]))) continue;
        if (code != 0 && status[i].last_code != code) continue;
        return true;
    }
    return false;
}

bool MailFilter::matches(const queue::Message& message, base::WallTime now) const {
    const queue::Envelope& envelope = message.envelope;
    if (id && *id != message.id) return false;
    if (!tenant.empty() && tenant != envelope.tenant()) return false;
    if (!account.empty() && account != envelope.account()) return false;
    if (!sender.empty() && sender != envelope.sender()) return false;
    if (older_s != 0 && now - envelope.arrival < std::chrono::seconds{older_s}) return false;
    if (domain.empty() && recipient.empty() && code == 0) return true;
    for (std::size_t i = 0; i < message.status.size(); ++i) {
        if (message.status[i].state != RecipientState::pending) continue;
        if (!domain.empty() && !same_text(domain, envelope.recipient_domain(i))) continue;
        if (!recipient.empty() && recipient != envelope.recipient(i).address) continue;
        if (code != 0 && message.status[i].last_code != code) continue;
        return true;
    }
    return false;
}

} // namespace dataplane::delivery
