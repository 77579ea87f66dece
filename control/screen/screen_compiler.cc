#include "control/screen/screen_compiler.h"

#include <charconv>
#include <cstdlib>
#include <hs/hs.h>
#include <memory>
#include <string_view>
#include <vector>

namespace control::screen {
namespace {

template <auto release>
struct Release {
    template <class Handle>
    void operator()(Handle* handle) const noexcept {
        static_cast<void>(release(handle));
    }
};
using DatabaseHandle = std::unique_ptr<hs_database_t, Release<hs_free_database>>;
using CompileErrorHandle = std::unique_ptr<hs_compile_error_t, Release<hs_free_compile_error>>;
using BytesHandle =
    std::unique_ptr<char, Release<std::free>>; // hs_serialize_database allocates with malloc

std::expected<unsigned, std::string> hyperscan_flags(std::string_view letters) {
    // The streams are reset, not rescanned: one hit per rule is all that a verdict needs.
    unsigned flags = HS_FLAG_SINGLEMATCH;
    for (const char letter : letters) {
        switch (letter) {
        case 'i':
            flags |= HS_FLAG_CASELESS;
            break;
        case 's':
            flags |= HS_FLAG_DOTALL;
            break;
        case 'm':
            flags |= HS_FLAG_MULTILINE;
            break;
        case 'u':
            flags |= HS_FLAG_UTF8;
            break;
        case 'w':
            flags |= HS_FLAG_UCP;
            break;
        default:
            return std::unexpected(std::string{"unknown flag '"} + letter +
                                   "'; there are i, s, m, u and w");
        }
    }
    if ((flags & HS_FLAG_UCP) != 0 && (flags & HS_FLAG_UTF8) == 0) {
        return std::unexpected(std::string{"flag 'w' needs flag 'u'"});
    }
    return flags;
}

/// Hyperscan tells the place only in words: "Missing close parenthesis ... at index 7."
std::optional<std::size_t> offset_in(std::string_view reason) {
    constexpr std::string_view marker = " at index ";
    const std::size_t found = reason.rfind(marker);
    if (found == std::string_view::npos) return std::nullopt;
    std::size_t offset = 0;
    const char* first = reason.data() + found + marker.size();
    const auto parsed = std::from_chars(first, reason.data() + reason.size(), offset);
    if (parsed.ec != std::errc{}) return std::nullopt;
    return offset;
}

CompileError pattern_error(std::span<const Pattern> patterns, std::size_t index,
                           std::string reason) {
    const auto offset = offset_in(reason);
    return {index, patterns[index].name, std::move(reason), offset};
}

CompileError general_error(std::string reason) {
    return {std::nullopt, {}, std::move(reason), std::nullopt};
}

struct Selection {
    std::vector<const char*> expressions;
    std::vector<unsigned> flags;
    std::vector<unsigned> ids;
};

std::expected<std::string, CompileError> compile(std::span<const Pattern> patterns,
                                                 const Selection& selected) {
    if (selected.ids.empty()) return std::string{};
    hs_database_t* made = nullptr;
    hs_compile_error_t* failed = nullptr;
    const hs_error_t result = hs_compile_multi(
        selected.expressions.data(), selected.flags.data(), selected.ids.data(),
        static_cast<unsigned>(selected.ids.size()), HS_MODE_STREAM, nullptr, &made, &failed);
    const DatabaseHandle database{made};
    const CompileErrorHandle error{failed};
    if (result != HS_SUCCESS) {
        std::string reason = error != nullptr ? error->message : "no reason given by Hyperscan";
        if (error == nullptr || error->expression < 0)
            return std::unexpected(general_error(std::move(reason)));
        const std::size_t index = selected.ids[static_cast<std::size_t>(error->expression)];
        return std::unexpected(pattern_error(patterns, index, std::move(reason)));
    }
    char* bytes = nullptr;
    std::size_t length = 0;
    if (hs_serialize_database(database.get(), &bytes, &length) != HS_SUCCESS) {
        return std::unexpected(
            general_error("Hyperscan cannot serialise its database: out of memory"));
    }
    const BytesHandle owner{bytes};
    return std::string{bytes, length};
}

} // namespace

std::expected<CompiledPatterns, CompileError> compile_patterns(std::span<const Pattern> patterns) {
    if (hs_valid_platform() != HS_SUCCESS) {
        return std::unexpected(general_error("this processor lacks SSSE3, which Hyperscan needs"));
    }
    if (patterns.size() > patterns_max) {
        return std::unexpected(
            general_error("more than " + std::to_string(patterns_max) + " rules"));
    }
    Selection header, body;
    for (std::size_t index = 0; index < patterns.size(); ++index) {
        const Pattern& pattern = patterns[index];
        if (pattern.pattern.empty())
            return std::unexpected(pattern_error(patterns, index, "the pattern is empty"));
        if (pattern.pattern.size() > pattern_bytes_max) {
            return std::unexpected(pattern_error(patterns, index,
                                                 "the pattern is longer than " +
                                                     std::to_string(pattern_bytes_max) + " bytes"));
        }
        // Hyperscan takes a C string and would compile the part before it.
        if (pattern.pattern.find('\0') != std::string::npos) {
            return std::unexpected(
                pattern_error(patterns, index, "the pattern contains a NUL; write \\x00"));
        }
        auto flags = hyperscan_flags(pattern.flags);
        if (!flags)
            return std::unexpected(pattern_error(patterns, index, std::move(flags.error())));
        for (Selection* selected : {&header, &body}) {
            const auto elsewhere =
                selected == &header ? Pattern::Where::body : Pattern::Where::header;
            if (pattern.where == elsewhere) continue;
            selected->expressions.push_back(pattern.pattern.c_str());
            selected->flags.push_back(*flags);
            selected->ids.push_back(static_cast<unsigned>(index));
        }
    }
    CompiledPatterns compiled;
    auto header_database = compile(patterns, header);
    if (!header_database) return std::unexpected(std::move(header_database.error()));
    compiled.header_database = std::move(*header_database);
    auto body_database = compile(patterns, body);
    if (!body_database) return std::unexpected(std::move(body_database.error()));
    compiled.body_database = std::move(*body_database);
    return compiled;
}

} // namespace control::screen
