// password.h: Argon2id hashes of account passwords, and which passwords are not taken.
//
// Scope      Hash, verify, judge. Where hashes are kept is accounts.h; how often one may guess is
//            credentials.h.
// Threading  Any; a call takes password_memory_kib of memory and some 20 ms of a core.
// Failure    Hashing fails only without memory: nothing is returned.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace control {

// OWASP's second choice for Argon2id (19 MiB, 2 passes, 1 lane): a guess costs an attacker real
// memory, while a worker of ours checks some 40 logins a second and all of them together stay
// within 100 MiB.
inline constexpr std::uint32_t password_memory_kib = 19 * 1024;
inline constexpr std::uint32_t password_passes = 2;
inline constexpr std::uint32_t password_lanes = 1;
inline constexpr std::size_t password_bytes_min = 12;
inline constexpr std::size_t password_bytes_max =
    256; // a bound on what a stranger can make us hash

[[nodiscard]] std::optional<std::string> hash_password(std::string_view password);
[[nodiscard]] bool password_matches(const std::string& hash, std::string_view password);
/// A hash that nothing matches, made once: checked for unknown accounts so that they take as long
/// as known ones.
[[nodiscard]] const std::string& hash_of_nobody();

/// Why a password is not taken, as a sentence for whoever chose it; nothing when it is good enough.
[[nodiscard]] std::optional<std::string> password_weakness(std::string_view account,
                                                           std::string_view password);

} // namespace control
