#include "dataplane/message/date.h"

#include <chrono>
#include <cstddef>
#include <string_view>

namespace dataplane::message {
namespace {

void put_digits(char* at, unsigned value, unsigned digits) noexcept {
    for (; digits > 0; --digits) {
        at[digits - 1] = static_cast<char>('0' + value % 10);
        value /= 10;
    }
}

} // namespace

DateText::DateText(base::WallTime time) noexcept {
    constexpr std::string_view pattern = "Day, 00 Mon 0000 00:00:00 +0000";
    constexpr std::string_view day_names = "SunMonTueWedThuFriSat";
    constexpr std::string_view month_names = "JanFebMarAprMayJunJulAugSepOctNovDec";
    static_assert(pattern.size() == std::tuple_size_v<decltype(text_)>);

    const auto day = std::chrono::floor<std::chrono::days>(time);
    const std::chrono::year_month_day date{day};
    const auto seconds =
        static_cast<unsigned>(std::chrono::floor<std::chrono::seconds>(time - day).count());

    pattern.copy(text_.data(), pattern.size());
    day_names.substr(std::chrono::weekday{day}.c_encoding() * 3, 3).copy(text_.data(), 3);
    put_digits(text_.data() + 5, static_cast<unsigned>(date.day()), 2);
    month_names.substr((static_cast<unsigned>(date.month()) - 1) * 3, 3).copy(text_.data() + 8, 3);
    put_digits(text_.data() + 12, static_cast<unsigned>(static_cast<int>(date.year())), 4);
    put_digits(text_.data() + 17, seconds / 3600, 2);
    put_digits(text_.data() + 20, seconds / 60 % 60, 2);
    put_digits(text_.data() + 23, seconds % 60, 2);
}

} // namespace dataplane::message
