// tls_bench.h: what TLS costs here, ours beside stock OpenSSL calls, in one run.
//
// Scope      Handshakes of a client and bulk encryption, over memory, and how two threads get on with
//            each other. "Ours" is what a shard has: its own library context, the contexts that
//            server_set.h builds, and the relief. "Stock" is SSL_CTX_new() and what it brings. The
//            CPU time of the side in question alone is counted.
// Owns       Nothing beyond a call. Keys are made for each call.
// Threading  One thread; contention() starts and joins its own. Switches the relief on and off, which
//            nobody else in the process may care about.
// Failure    std::runtime_error: this OpenSSL cannot do what is measured.
#pragma once

#include <chrono>
#include <string>
#include <vector>

namespace tls_offload::bench {

struct Row {
    std::string name;    // "client_full_tls13_rsa2048"
    double ours_us = 0;  // per operation
    double stock_us = 0; // 0: nothing to compare with
    double goal = 0; // for ratio() where there is a stock, for ours_us where there is none; 0: none
    [[nodiscard]] double ratio() const noexcept { return stock_us > 0 ? ours_us / stock_us : 0; }
};

/// \param seconds  for each row, shared by both sides, which take turns
[[nodiscard]] std::vector<Row> handshakes(double seconds);
/// 16 KiB records with AES-256-GCM beside EVP's AES-256-GCM; a row is 16 KiB.
[[nodiscard]] std::vector<Row> bulk(double seconds);

struct Contention {
    std::string name;
    double one_per_s = 0; // whole handshakes, client and server, by one thread
    double two_per_s = 0; // by two threads together
    [[nodiscard]] double scaling() const noexcept {
        return one_per_s > 0 ? two_per_s / one_per_s : 0;
    }
};
/// Threads with a library context each and the relief, as shards are; then the same with one context
/// for both, and without the relief.
[[nodiscard]] std::vector<Contention> contention(double seconds);

} // namespace tls_offload::bench
