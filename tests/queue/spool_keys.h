// spool_keys.h: keys for a spool of the tests, and bytes for its segments' keys, all from a seed.
#pragma once

#include "queue/keyring.h"

#include <cstdint>
#include <memory>
#include <random>
#include <string>

namespace tests {

[[nodiscard]] inline std::string key_text(std::uint64_t seed) {
    std::mt19937_64 random{seed};
    constexpr const char* digits = "0123456789abcdef";
    std::string text;
    for (int i = 0; i < 64; ++i)
        text += digits[random() % 16];
    return text + "\n";
}

/// \param text    as in a file of keys
/// \param seed    of what is random in it; two boots of one spool must not have the same
[[nodiscard]] inline std::shared_ptr<const queue::KeyRing> key_ring(const std::string& text,
                                                                    std::uint64_t seed) {
    auto random = std::make_shared<std::mt19937_64>(seed);
    auto ring =
        queue::KeyRing::parse(text, "keys of the test", [random](std::span<std::byte> bytes) {
            for (std::byte& byte : bytes)
                byte = static_cast<std::byte>((*random)());
        });
    return ring.value();
}

/// One key; with `rotated` a new one stands before it. Each boot of a spool needs a number of its own.
[[nodiscard]] inline std::shared_ptr<const queue::KeyRing>
spool_keys(std::uint64_t seed, bool rotated = false, std::uint64_t boot = 0) {
    return key_ring((rotated ? key_text(seed + 1) : "") + key_text(seed),
                    (seed * 64 + boot) ^ 0x6B657973);
}

} // namespace tests
