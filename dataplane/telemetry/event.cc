#include "dataplane/telemetry/event.h"

#include <algorithm>

namespace dataplane::telemetry {

std::string_view to_string(EventType type) noexcept {
    switch (type) {
    case EventType::reception:
        return "Reception";
    case EventType::delivery:
        return "Delivery";
    case EventType::transient_failure:
        return "TransientFailure";
    case EventType::bounce:
        return "Bounce";
    case EventType::rejection:
        return "Rejection";
    case EventType::expiration:
        return "Expiration";
    case EventType::admin_bounce:
        return "AdminBounce";
    case EventType::delayed:
        return "Delayed";
    }
    return "Unknown";
}

void Event::set(EventText field, std::string_view value) noexcept {
    const auto index = static_cast<std::size_t>(field);
    const std::size_t bytes = std::min(value.size(), text_.size() - used_);
    std::copy_n(value.data(), bytes, text_.data() + used_);
    offset_[index] = used_;
    length_[index] = static_cast<std::uint16_t>(bytes);
    used_ = static_cast<std::uint16_t>(used_ + bytes);
}

std::string_view Event::get(EventText field) const noexcept {
    const auto index = static_cast<std::size_t>(field);
    return {text_.data() + offset_[index], length_[index]};
}

void Event::clear() noexcept {
    type = EventType::reception;
    message_id = 0;
    time = created = {};
    size_bytes = 0;
    attempts = 0;
    code = 0;
    enhanced = {};
    peer = source = {};
    tls_resumed = false;
    inbound = false;
    offset_ = {};
    length_ = {};
    used_ = 0;
}

} // namespace dataplane::telemetry
