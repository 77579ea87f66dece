// hex.h: a 64-bit id as 16 hexadecimal digits, without allocating.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace dataplane::smtp {

class HexText {
public:
    explicit constexpr HexText(std::uint64_t value) noexcept {
        for (std::size_t i = digits_.size(); i-- > 0; value >>= 4)
            digits_[i] = "0123456789abcdef"[value & 15];
    }
    [[nodiscard]] constexpr std::string_view view() const noexcept {
        return {digits_.data(), digits_.size()};
    }

private:
    std::array<char, 16> digits_{};
};

} // namespace dataplane::smtp
