// relief.h: takes OpenSSL 3.0's decoders out of the way of every handshake.
//
// Scope      OpenSSL 3.0 sets up a chain of decoders for each public key that it reads, which costs
//            100 us a certificate and thousands of lock operations. With an ENGINE for a kind of key
//            it reads it as OpenSSL 1.1 did, in 6 us. The ENGINE here is that and nothing more: it
//            forwards to the built-in methods of RSA, RSA-PSS and EC, so that the same code of the
//            same library does the arithmetic. See docs/tls.md for measurements.
// Owns       The ENGINE, until the process ends.
// Threading  use_relief() once, in main(), before other threads use OpenSSL. It uses an interface
//            that OpenSSL has deprecated, and is off on other lines than 3.0, where nobody has
//            measured it.
// Failure    The self-test verifies good and bad chains of each kind of key. If one of them comes
//            out otherwise than it must, the relief is taken back and the report says so.
#pragma once

#include <cstdint>
#include <string>

namespace tls_offload {

enum class Relief : std::uint8_t { automatic, on, off };

struct ReliefReport {
    bool active = false;
    std::string text; // why, in a sentence
};

[[nodiscard]] ReliefReport use_relief(Relief wanted);
/// Takes it back: for tests and measurements.
void end_relief() noexcept;

/// Verifies good and bad chains with whatever is active now. "" or what came out wrong.
[[nodiscard]] std::string relief_self_test();

} // namespace tls_offload
