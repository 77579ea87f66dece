// crypto_bench.h: `millrace-bench crypto`: what TLS and signatures cost here, ours beside stock OpenSSL in one run.
//
// Scope      The command and its table. What is measured of TLS and of the engine alone is in tls_offload/bench;
//            turns of a loop under handshakes over real sockets are in crypto_turns.h.
// Threading  The caller's thread, and those of what is measured.
// Failure    Throws std::runtime_error with a text for a person.
#pragma once

#include <string>
#include <vector>

namespace dataplane::loadgen {

struct CryptoCommand {
    // handshake, bulk, dkim, turns, contention
    std::vector<std::string> cases{"handshake", "bulk", "dkim", "turns", "contention"};
    double seconds = 2; // of each row
    std::string json_file;
};

/// 0 when every case ran, whether goals were met or not: the rows say which.
[[nodiscard]] int run_crypto(const CryptoCommand& command);

} // namespace dataplane::loadgen
