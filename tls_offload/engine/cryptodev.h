// cryptodev.h: DPDK's asymmetric crypto devices as a backend: a QAT card's, or the software twin of it.
//
// Scope      Finds or makes one crypto device with RSA, opens it with one queue pair for each shard, and
//            gives each shard its backend. DPDK's environment is not started here: dataplane/net/port owns
//            it, and whoever calls open() has started it (the daemon).
// Owns       The device and its pools, for as long as it lives; backends go first, then this, then the EAL.
// Threading  open() and the end on main; each backend on its shard.
// Failure    open() says in a sentence what is missing and what to do.
#pragma once

#include "tls_offload/engine/backend.h"

#include <cstdint>
#include <expected>
#include <memory>
#include <string>

namespace tls_offload::offload {

struct CryptodevOptions {
    // A device by name ("0000:3d:01.0_qat_asym"), a virtual one to make ("crypto_openssl"), or empty: the
    // first that can sign with RSA.
    std::string device;
    unsigned shards = 1;
    unsigned operations = 256; // of one shard, under way at once
    unsigned keys_max = 1024;  // of one shard, remembered by the device
};

class Cryptodev {
public:
    /// \pre  DPDK's environment is up
    [[nodiscard]] static std::expected<std::unique_ptr<Cryptodev>, std::string>
    open(const CryptodevOptions& options);
    ~Cryptodev();
    Cryptodev(const Cryptodev&) = delete;
    Cryptodev& operator=(const Cryptodev&) = delete;

    [[nodiscard]] std::unique_ptr<Backend> backend(unsigned shard);
    [[nodiscard]] const std::string& device() const noexcept;
    [[nodiscard]] const std::string& driver() const noexcept;

private:
    class ShardBackend;
    struct State;
    explicit Cryptodev(std::unique_ptr<State> state) noexcept;
    std::unique_ptr<State> state_;
};

} // namespace tls_offload::offload
