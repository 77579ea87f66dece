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

#include "tls_offload/bench/row.h"

#include <string>
#include <vector>

namespace tls_offload::bench {

/// \param seconds  for each row, shared by both sides, which take turns
[[nodiscard]] std::vector<Row> handshakes(double seconds);
/// 16 KiB records with AES-256-GCM; a row is 16 KiB. Beside EVP's AES-256-GCM here, and beside what
/// `openssl speed` says in between, which is a process of its own.
[[nodiscard]] std::vector<Row> bulk(double seconds);

/// A self-signed RSA pair for mx.example.com, as PEM.
void write_rsa_pair(unsigned bits, const std::string& certificate_file,
                    const std::string& key_file);
/// What EVP_DigestSign takes for a digest with this key. \param pem  a private key, Ed25519
[[nodiscard]] double ed25519_us(const std::string& pem, double seconds);

struct Contention {
    std::string name;
    double one_per_s = 0; // whole handshakes, client and server, by one thread
    double two_per_s = 0; // by two threads together
    double waits_per_1000 =
        0; // times that one of two threads slept, for 1,000 handshakes: for a lock
    [[nodiscard]] double scaling() const noexcept {
        return one_per_s > 0 ? two_per_s / one_per_s : 0;
    }
};
/// Threads with a library context each and the relief, as shards are; then the same with one context
/// for both, and without the relief.
[[nodiscard]] std::vector<Contention> contention(double seconds);

} // namespace tls_offload::bench
