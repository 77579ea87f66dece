// content_check.h: reads a message as the relay handed it over and says whether it is whole.
//
// Scope      Content without dot-stuffing, in pieces of any size. Finds our four fields among
//            whatever the relay added, holds the fields that the message came with against their
//            digest, and hashes the body in place. A field of ours that cannot be read is damage too.
// Owns       The header, up to header_bytes_max; no byte of the body.
#pragma once

#include "dataplane/loadgen/digest.h"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace dataplane::loadgen {

enum class ContentState : std::uint8_t {
    whole,
    altered, // ours, but not as it was sent: the body, a field of the header, or a field of ours
    foreign, // not one of our messages: a bounce, or somebody else's mail
};

class ContentCheck {
public:
    void begin() noexcept;
    void feed(std::span<const std::byte> bytes);
    /// After the last byte. The names below are valid until begin().
    [[nodiscard]] ContentState finish();

    /// Empty for what is not ours, or too damaged to tell.
    [[nodiscard]] std::string_view run() const noexcept { return run_; }
    /// Whether somebody signed it (DKIM); the signature is not verified.
    [[nodiscard]] bool is_signed() const noexcept { return signed_; }
    [[nodiscard]] std::uint64_t sequence() const noexcept { return sequence_; }
    [[nodiscard]] std::uint64_t bytes_seen() const noexcept { return bytes_seen_; }

private:
    void read_header(std::string_view header);

    std::string header_;
    bool in_header_ = true;
    bool ours_ = false;
    bool damaged_ = false; // in the header
    bool signed_ = false;
    std::string run_;
    std::uint64_t sequence_ = 0;
    std::uint64_t expected_digest_ = 0; // of the body
    std::uint64_t bytes_seen_ = 0;
    BodyDigest digest_;
};

/// Of the fields that a message comes with and that nobody on its way has a reason to touch, trace fields
/// and ours apart; their values as they stand, spaces around them left out.
/// \param header  whole lines with their CRLF
[[nodiscard]] std::uint64_t digest_of_fields(std::string_view header);

/// Removes dot-stuffing from DATA and finds its end, in pieces of any size.
class DotReader {
public:
    struct Step {
        std::size_t consumed = 0; // of the bytes given
        bool ended = false;       // the final dot line lies within them
    };
    void begin() noexcept { state_ = State::line_start; }
    /// Feeds the content among `bytes` to `check`.
    [[nodiscard]] Step step(std::span<const std::byte> bytes, ContentCheck& check);

private:
    enum class State : std::uint8_t { line_start, dot, dot_cr, in_line };
    State state_ = State::line_start;
};

} // namespace dataplane::loadgen
