#include "queue/envelope.h"

#include "dataplane/base/check.h"

namespace queue {

void Envelope::clear() noexcept {
    text_.clear();
    sender_ = envid_ = account_ = tenant_ = campaign_ = source_ = session_ = {};
    recipients_.clear();
    arrival = expiry = {};
    client = {};
    dsn_return = DsnReturn::unspecified;
    body = BodyKind::seven_bit;
    smtputf8 = client_tls = delay_notified = false;
}

Envelope::Text Envelope::store(std::string_view value) {
    const Text place{static_cast<std::uint32_t>(text_.size()),
                     static_cast<std::uint32_t>(value.size())};
    text_.append(value);
    return place;
}

void Envelope::add_recipient(std::string_view address, std::string_view orcpt,
                             std::uint8_t notify) {
    const Text address_place = store(address);
    const Text orcpt_place = store(orcpt);
    recipients_.push_back({address_place, orcpt_place, notify});
}

Envelope::Recipient Envelope::recipient(std::size_t index) const noexcept {
    CHECK(index < recipients_.size());
    const Entry& entry = recipients_[index];
    return {text(entry.address), text(entry.orcpt), entry.notify};
}

std::string_view Envelope::recipient_domain(std::size_t index) const noexcept {
    const std::string_view address = recipient(index).address;
    const std::size_t at = address.rfind('@');
    return at == std::string_view::npos ? std::string_view{} : address.substr(at + 1);
}

} // namespace queue
