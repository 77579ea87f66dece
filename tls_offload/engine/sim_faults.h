// sim_faults.h: what may go wrong with a simulated accelerator, and how often: from a seed.
//
// Scope      The dice behind sim_backend.h and the loadable engine of simasync.cc.
// Owns       A generator.
// Threading  One thread.
#pragma once

#include "dataplane/base/clock.h"

#include <algorithm>
#include <cstdint>
#include <random>

namespace tls_offload::offload {

namespace base = dataplane::base;

struct SimFaults {
    std::uint64_t seed = 1;
    base::Duration delay_min = std::chrono::microseconds{50};
    base::Duration delay_max = std::chrono::microseconds{2000};
    // In a thousand operations:
    unsigned wrong = 0;
    unsigned failed = 0;
    unsigned lost = 0;
    unsigned slow = 0;   // ten times delay_max
    unsigned refuse = 0; // begins a burst of refusals, as of a full ring
    unsigned refuse_length = 5;
    bool partial = false; // poll() gives fewer than there are
};

enum class SimFate : std::uint8_t { good, wrong, failed, lost };

class SimDice {
public:
    explicit SimDice(std::uint64_t seed) : random_(seed) {}

    [[nodiscard]] bool one_in_thousand(unsigned times) { return random_() % 1000 < times; }
    [[nodiscard]] SimFate fate(const SimFaults& faults) {
        const auto roll = static_cast<unsigned>(random_() % 1000);
        if (roll < faults.wrong) return SimFate::wrong;
        if (roll < faults.wrong + faults.failed) return SimFate::failed;
        if (roll < faults.wrong + faults.failed + faults.lost) return SimFate::lost;
        return SimFate::good;
    }
    [[nodiscard]] base::Duration delay(const SimFaults& faults) {
        if (one_in_thousand(faults.slow)) return 10 * faults.delay_max;
        const auto span =
            static_cast<std::uint64_t>((faults.delay_max - faults.delay_min).count()) + 1;
        return faults.delay_min +
               base::Duration{static_cast<base::Duration::rep>(random_() % span)};
    }
    [[nodiscard]] bool refuses(const SimFaults& faults) {
        if (refusals_left_ > 0) {
            --refusals_left_;
            return true;
        }
        if (!one_in_thousand(faults.refuse)) return false;
        refusals_left_ = faults.refuse_length;
        return true;
    }
    [[nodiscard]] std::size_t part_of(std::size_t whole) {
        return whole == 0 ? 0 : random_() % (whole + 1);
    }

private:
    std::mt19937_64 random_;
    unsigned refusals_left_ = 0;
};

} // namespace tls_offload::offload
