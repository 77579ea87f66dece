// date.h: wall time as RFC 5322 §3.3 writes it.
#pragma once

#include "dataplane/base/clock.h"

#include <array>
#include <string_view>

namespace dataplane::message {

/// "Thu, 01 Jan 2026 00:00:00 +0000": always UTC, always 31 characters, for the years 0 to 9999.
class DateText {
public:
    explicit DateText(base::WallTime time) noexcept;
    [[nodiscard]] std::string_view view() const noexcept { return {text_.data(), text_.size()}; }

private:
    std::array<char, 31> text_;
};

} // namespace dataplane::message
