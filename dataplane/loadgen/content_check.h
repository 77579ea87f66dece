// content_check.h: reads a message as the relay handed it over and says whether it is whole.
//
// Scope      Content without dot-stuffing, in pieces of any size. Finds our three fields among
//            whatever the relay added, then hashes the body in place.
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
    altered, // ours, but the body's digest is not what the header says
    foreign, // not one of our messages: a bounce, or somebody else's mail
};

class ContentCheck {
public:
    void begin() noexcept;
    void feed(std::span<const std::byte> bytes);
    /// After the last byte. The names below are valid until begin().
    [[nodiscard]] ContentState finish();

    [[nodiscard]] std::string_view run() const noexcept { return run_; }
    [[nodiscard]] std::uint64_t sequence() const noexcept { return sequence_; }
    [[nodiscard]] std::uint64_t bytes_seen() const noexcept { return bytes_seen_; }

private:
    void read_header(std::string_view header);

    std::string header_;
    bool in_header_ = true;
    bool ours_ = false;
    std::string run_;
    std::uint64_t sequence_ = 0;
    std::uint64_t expected_digest_ = 0;
    std::uint64_t bytes_seen_ = 0;
    BodyDigest digest_;
};

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
