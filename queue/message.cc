#include "queue/message.h"

#include "queue/core.h"

#include <algorithm>
#include <charconv>

namespace queue {

std::string MessageId::to_string() const {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string text(16, '0');
    for (unsigned i = 0; i < 16; ++i)
        text[i] = digits[value >> (60 - 4 * i) & 15];
    return text;
}

std::optional<MessageId> MessageId::parse(std::string_view hex) noexcept {
    if (hex.size() != 16) return std::nullopt;
    MessageId id;
    const auto [end, error] = std::from_chars(hex.data(), hex.data() + hex.size(), id.value, 16);
    if (error != std::errc{} || end != hex.data() + hex.size()) return std::nullopt;
    return id;
}

std::size_t Message::pending_count() const noexcept {
    return static_cast<std::size_t>(
        std::ranges::count(status, RecipientState::pending, &RecipientStatus::state));
}

void Message::retire() noexcept {
    if (owner_ == nullptr) {
        delete this;
        return;
    }
    owner_->recycle(*this);
}

} // namespace queue
