// sha256.h: SHA-256 as a value: no allocation, no lock, may be copied half-way.
//
// Scope      OpenSSL's own SHA-256 code behind its low-level calls. EVP's would make an object on the
//            heap for each message and take a lock to find the algorithm (OpenSSL 3.0); the low-level
//            ones are deprecated for that they know nothing of providers, which is what we want.
// Owns       Its state, inline.
// Threading  A value.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

namespace dataplane::message::dkim {

using Digest = std::array<std::byte, 32>;

class Sha256 {
public:
    Sha256() noexcept;
    void add(std::string_view bytes) noexcept;
    /// Ends the hash; only assignment may follow.
    [[nodiscard]] Digest finish() noexcept;

private:
    alignas(8) std::array<std::byte, 112> state_;
};

} // namespace dataplane::message::dkim
