// crypto_turns.h: how long a shard's turns become while it makes TLS handshakes with an RSA-4096 certificate.
//
// Scope      A loop with sockets, as a shard has it, that accepts TLS; on a thread of their own 32 clients that
//            connect, shake hands in full, part, and come again. Once with the signatures through the engine's crypto
//            thread, once made on the shard.
// Threading  The caller's thread is the shard, on CPU 0; client and crypto thread share CPU 1 where there is one.
// Failure    Throws std::runtime_error or std::system_error.
#pragma once

#include <chrono>
#include <cstdint>

namespace dataplane::loadgen {

struct TurnsSeen {
    std::uint64_t handshakes = 0;
    std::uint64_t turns = 0;
    std::uint64_t slow_turns = 0; // over 1 ms of the shard's CPU time
    double cpu_us_max = 0;
    double wall_us_max = 0; // with whatever else the machine ran in between
};
[[nodiscard]] TurnsSeen measure_turns(bool with_engine, std::chrono::milliseconds time);

} // namespace dataplane::loadgen
