// screen_compiler.h: turns the patterns of screening rules into serialised Hyperscan databases.
//
// Scope      Patterns in, two streaming databases out: one for the header, one for the body. The
//            pattern at index i has id i in both, so that the policy's rule table needs no other
//            key.
// Threading  Any; blocks for as long as Hyperscan compiles (thousands of rules: seconds).
// Failure    CompileError names the rule. Nothing is compiled in part.
//
// The databases are made for the processor this runs on and refuse to load on a lesser one. Each
// rule hits at most once per database: Hyperscan stops reporting a pattern after its first match.
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <string>

namespace control::screen {

inline constexpr std::size_t patterns_max = 10'000;
inline constexpr std::size_t pattern_bytes_max =
    8'192; // Hyperscan refuses a single one over 16,000

struct Pattern {
    enum class Where : std::uint8_t { header, body, any };
    std::string name;    // for errors
    std::string pattern; // PCRE, as far as Hyperscan has it: no back references, no look-around
    // i: either case   s: dot matches newlines   m: ^ and $ match at line ends
    // u: pattern and text are UTF-8; in a text that is not, the rule may miss or hit at random
    // w: with u, \w \d \s and case go by Unicode
    std::string flags;
    Where where = Where::any;
};

struct CompiledPatterns {
    std::string header_database, body_database; // empty: no pattern looks there
};

struct CompileError {
    std::optional<std::size_t> index; // of the pattern; nullopt when it is not one pattern's fault
    std::string name;                 // of the pattern
    std::string reason;               // Hyperscan's words, or ours
    std::optional<std::size_t>
        offset; // into the pattern, where the reason is found, when it says so
};

[[nodiscard]] std::expected<CompiledPatterns, CompileError>
compile_patterns(std::span<const Pattern> patterns);

} // namespace control::screen
