// notation.h: how settings are written: durations, sizes, rates, names, and what a misspelt one was
// meant to be.
//
// Scope      Text in, value out, for the configuration and for command lines.
// Threading  Any; no state.
// Failure    false, or nothing: the caller knows which setting it was and says so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace control {

inline constexpr std::size_t name_bytes_max = 64;

[[nodiscard]] bool parse_duration(std::string_view text,
                                  std::uint64_t& seconds); // "90s", "1h30m", "2 hours"
[[nodiscard]] bool parse_size(std::string_view text, std::uint64_t& bytes); // "64MiB"
[[nodiscard]] bool parse_rate(std::string_view text, double& per_second);   // "100/s", "1,000/hr"
[[nodiscard]] bool parse_port(std::string_view text, std::uint16_t& port);  // 1 to 65535

/// Letters, digits, '-', '_' and dots, at most 253 octets, no empty label; as DNS wants it on the
/// wire.
[[nodiscard]] bool is_host_name(std::string_view text) noexcept;
/// Names of listeners, sources, pools and rules: they stand in logs and metrics.
[[nodiscard]] bool is_name(std::string_view text) noexcept;
[[nodiscard]] bool is_printable(std::string_view text) noexcept; // ASCII, one line

/// A device as DPDK writes it, with the "0000:" that a PCI address may leave out; "" when the text
/// is none. What stands behind the first comma is the driver's business.
[[nodiscard]] std::string normal_device(std::string_view text);

[[nodiscard]] std::string lower(std::string_view text); // ASCII only
/// For error texts and logs: in quotes, cut at 80 bytes, with '?' for what a terminal should not
/// get and no quote inside.
[[nodiscard]] std::string in_quotes(std::string_view text);
/// The known word that was probably meant, or nothing.
[[nodiscard]] std::string_view nearest(std::string_view word,
                                       std::span<const std::string_view> known);

} // namespace control
