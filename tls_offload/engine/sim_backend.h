// sim_backend.h: an accelerator that misbehaves on purpose, from a seed. For tests.
//
// Scope      Completes in virtual time with delays, out of order and in part; refuses when its ring is
//            full, or in bursts for no reason; gives wrong results, loses completions, dies and comes back.
// Owns       Its operations. The signatures are real: made by OpenSSL when they complete.
// Threading  The shard's.
#pragma once

#include "tls_offload/engine/backend.h"
#include "tls_offload/engine/sim_faults.h"

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

namespace tls_offload::offload {

struct SimBackendOptions {
    SimFaults faults;
    std::size_t ring = 64;
    base::Duration stuck_after = std::chrono::milliseconds{20};
    bool verified = false; // claims to have verified what it gives out
    std::string_view name = "sim";
};

class SimBackend final : public Backend {
public:
    explicit SimBackend(SimBackendOptions options);
    ~SimBackend() override;

    [[nodiscard]] const BackendTraits& traits() const noexcept override { return traits_; }
    [[nodiscard]] Taken submit(const Operation& operation) override;
    void flush(base::TimePoint now) override;
    std::size_t poll(base::TimePoint now, std::size_t budget, CompletionSink& sink) override;
    [[nodiscard]] bool pending() const noexcept override { return !held_.empty(); }
    [[nodiscard]] std::size_t in_flight() const noexcept override { return held_.size(); }
    [[nodiscard]] bool heartbeat() override { return heartbeat_; }
    [[nodiscard]] bool revive() override;

    // --- What a test does to it
    void die() noexcept { dead_ = true; }
    void come_back() noexcept { dead_ = false; }
    void set_heartbeat(bool alive) noexcept { heartbeat_ = alive; }
    void set_faults(const SimFaults& faults) noexcept { options_.faults = faults; }
    /// Lets everything that was lost or held back complete after all, late.
    void give_up_the_lost() noexcept;

    struct Counts {
        std::uint64_t taken = 0, refused = 0, completed = 0, wrong = 0, failed = 0, lost = 0;
    };
    [[nodiscard]] const Counts& counts() const noexcept { return counts_; }

private:
    struct Held {
        std::uint64_t token = 0;
        KeyRef key;
        std::array<std::byte, block_bytes_max> block{};
        base::TimePoint due{};
        SimFate fate = SimFate::good;
        bool staged = true;
    };

    SimBackendOptions options_;
    BackendTraits traits_;
    SimDice dice_;
    std::vector<Held> held_;
    bool dead_ = false;
    bool heartbeat_ = true;
    Counts counts_;
};

} // namespace tls_offload::offload
