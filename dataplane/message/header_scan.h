// header_scan.h: what the relay must know of a message's header, read as the content streams past.
//
// Scope      The header section of RFC 5322 §2.2: which of the fields the relay cares about are
//            there, how many Received fields, where the section ends and how. Values are not kept:
//            nothing here needs them, and a header may be as long as its sender likes.
// Owns       One field name of at most name_bytes_max, for names cut by a fragment's end.
// Threading  Pure.
// Failure    None: whatever comes is classified. bytes_max ends the reading of an endless header.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace dataplane::message {

enum class HeaderEnd : std::uint8_t {
    open,         // still in the header section
    blank_line,   // as it should be
    not_a_header, // a line that is neither a field nor a continuation: the body began without a
                  // blank line
    too_large,    // bytes_max were read and it still goes on
};

class HeaderScan {
public:
    static constexpr std::size_t bytes_max =
        256U << 10; // ours; the largest seen in the wild are below 100 KiB

    /// The next piece of content. Costs nothing once done().
    void feed(std::span<const std::byte> content) noexcept;

    [[nodiscard]] bool done() const noexcept { return end_ != HeaderEnd::open; }
    /// How the section ended; `open` after the last piece means that there was no body at all.
    [[nodiscard]] HeaderEnd end() const noexcept { return end_; }
    /// Bytes of the header section, with the blank line.
    [[nodiscard]] std::size_t header_bytes() const noexcept { return bytes_; }
    [[nodiscard]] std::uint32_t field_count() const noexcept { return fields_; }
    [[nodiscard]] std::uint32_t received_count() const noexcept { return received_; }
    [[nodiscard]] bool has_date() const noexcept { return has_date_; }
    [[nodiscard]] bool has_message_id() const noexcept { return has_message_id_; }
    [[nodiscard]] bool has_from() const noexcept { return has_from_; }
    /// Fields put in front of this content need a blank line behind them, or the body's first line
    /// would join them.
    [[nodiscard]] bool needs_blank_line() const noexcept {
        return fields_ == 0 && end_ != HeaderEnd::blank_line;
    }

private:
    static constexpr std::size_t name_bytes_max =
        77; // RFC 5322 §2.1.1: a name with its colon fits a line
    enum class Place : std::uint8_t { line_start, name, value, blank_cr };

    void name_ended() noexcept;

    HeaderEnd end_ = HeaderEnd::open;
    Place place_ = Place::line_start;
    bool has_date_ = false;
    bool has_message_id_ = false;
    bool has_from_ = false;
    std::uint32_t fields_ = 0;
    std::uint32_t received_ = 0;
    std::size_t bytes_ = 0;
    std::size_t name_bytes_ = 0;
    std::array<char, name_bytes_max> name_{};
};

} // namespace dataplane::message
