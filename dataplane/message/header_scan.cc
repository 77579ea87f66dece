#include "dataplane/message/header_scan.h"

#include <algorithm>
#include <cstring>

namespace dataplane::message {
namespace {

constexpr char lower(char c) noexcept {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
}

bool is(std::string_view name, std::string_view lower_case) noexcept {
    return name.size() == lower_case.size() && std::ranges::equal(name, lower_case, {}, lower);
}

} // namespace

void HeaderScan::feed(std::span<const std::byte> content) noexcept {
    if (done() || content.empty()) return;
    const char* const begin = reinterpret_cast<const char*>(content.data());
    const char* const end = begin + content.size();
    const char* at = begin;
    while (at != end && !done()) {
        switch (place_) {
        case Place::line_start:
            if (*at == '\n' || *at == '\r') {
                if (*at == '\n') end_ = HeaderEnd::blank_line;
                place_ = Place::blank_cr;
                ++at;
            } else if (*at == ' ' || *at == '\t') { // folded, but only behind a field (§2.2.3)
                if (fields_ == 0) {
                    end_ = HeaderEnd::not_a_header;
                } else {
                    place_ = Place::value;
                }
            } else {
                name_bytes_ = 0;
                place_ = Place::name;
            }
            break;
        case Place::name:
            for (; at != end && place_ == Place::name && !done(); ++at) {
                const auto c = static_cast<unsigned char>(*at);
                if (c == ':') {
                    name_ended();
                    place_ = Place::value;
                } else if ((c < ' ' && c != '\t') || c >= 0x7f || name_bytes_ == name_.size()) {
                    end_ = HeaderEnd::not_a_header;
                    --at; // its byte belongs to the body
                } else {
                    name_[name_bytes_++] = *at;
                }
            }
            break;
        case Place::value: {
            const void* newline = std::memchr(at, '\n', static_cast<std::size_t>(end - at));
            at = newline == nullptr ? end : static_cast<const char*>(newline) + 1;
            if (newline != nullptr) place_ = Place::line_start;
            break;
        }
        case Place::blank_cr: // CR at a line's start: the blank line, when LF follows
            end_ = *at == '\n' ? HeaderEnd::blank_line : HeaderEnd::not_a_header;
            if (*at == '\n') ++at;
            break;
        }
    }
    bytes_ += static_cast<std::size_t>(at - begin);
    if (!done() && bytes_ > bytes_max) end_ = HeaderEnd::too_large;
}

/// A field's name is complete. Blanks between it and the colon are obsolete syntax (§4.5.3), not an
/// error.
void HeaderScan::name_ended() noexcept {
    std::string_view name{name_.data(), name_bytes_};
    name_bytes_ = 0;
    while (name.ends_with(' ') || name.ends_with('\t'))
        name.remove_suffix(1);
    if (name.empty() || std::ranges::any_of(name, [](char c) { return c == ' ' || c == '\t'; })) {
        end_ = HeaderEnd::not_a_header;
        return;
    }
    ++fields_;
    if (is(name, "received")) ++received_;
    has_date_ |= is(name, "date");
    has_message_id_ |= is(name, "message-id");
    has_from_ |= is(name, "from");
}

} // namespace dataplane::message
