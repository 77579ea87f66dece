// seq.h: sequence numbers, which wrap. Source: RFC 9293 §3.4.
#pragma once

#include <cstdint>

namespace dataplane::net::tcp {

/// A place in sequence space. Comparison is by signed distance, so it holds for numbers less than
/// 2^31 apart, which every window is.
class Seq {
public:
    constexpr Seq() noexcept = default;
    constexpr explicit Seq(std::uint32_t raw) noexcept : raw_(raw) {}
    [[nodiscard]] constexpr std::uint32_t raw() const noexcept { return raw_; }

    friend constexpr Seq operator+(Seq seq, std::uint32_t bytes) noexcept {
        return Seq{seq.raw_ + bytes};
    }
    friend constexpr Seq operator-(Seq seq, std::uint32_t bytes) noexcept {
        return Seq{seq.raw_ - bytes};
    }
    constexpr Seq& operator+=(std::uint32_t bytes) noexcept {
        raw_ += bytes;
        return *this;
    }
    /// Bytes from `from` up to `to`; the caller knows that `to` is not before `from`.
    friend constexpr std::uint32_t distance(Seq from, Seq to) noexcept { return to.raw_ - from.raw_; }

    friend constexpr bool operator==(Seq, Seq) noexcept = default;
    friend constexpr bool operator<(Seq a, Seq b) noexcept {
        return static_cast<std::int32_t>(a.raw_ - b.raw_) < 0;
    }
    friend constexpr bool operator>(Seq a, Seq b) noexcept { return b < a; }
    friend constexpr bool operator<=(Seq a, Seq b) noexcept { return !(b < a); }
    friend constexpr bool operator>=(Seq a, Seq b) noexcept { return !(a < b); }

private:
    std::uint32_t raw_ = 0;
};

[[nodiscard]] constexpr Seq max(Seq a, Seq b) noexcept { return a < b ? b : a; }
[[nodiscard]] constexpr Seq min(Seq a, Seq b) noexcept { return b < a ? b : a; }

} // namespace dataplane::net::tcp
