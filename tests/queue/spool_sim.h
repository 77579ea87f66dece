// spool_sim.h: whole lives of a spool, drawn from a seed: boots, crashes, faults, and a judgement after each.
//
// Scope      What a seed decides, and the runs themselves. Also the exhaustive ones: a script crashed at every
//            event of its disk, crashed again at every event of the recovery, and every operation refused once
//            or from then on.
// Threading  One; a run owns everything it uses.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tests {

struct SimResult {
    std::vector<std::string> violations;
    std::uint64_t boots = 0, operations = 0, acknowledged = 0, lost_and_told = 0;
    std::uint64_t unanswered = 0; // halves that were left behind because they did not answer
    std::uint64_t trace = 0xcbf29ce484222325ULL; // two runs of a seed must agree
    void add(const SimResult& other);
};

/// On how many devices the spool is: two are a mirror, of which one half is damaged at most.
enum class Devices : std::uint8_t { one, two };

[[nodiscard]] SimResult run_spool_seed(std::uint64_t seed, Devices devices = Devices::one);

/// How writes are made safe: each by itself, or by a flush for all that have landed.
enum class Commit : std::uint8_t { dsync, flush };

/// \param stride  only every so many points; 1 is all of them
/// \param every   of the events after which a recovery is crashed at each of its own
[[nodiscard]] SimResult run_crash_at_every_event(std::uint64_t stride, Commit commit);
[[nodiscard]] SimResult run_crash_in_every_recovery(std::uint64_t stride, std::uint64_t every,
                                                    Commit commit);
[[nodiscard]] SimResult run_error_at_every_operation(std::uint64_t stride, Commit commit);
/// A device that tells of durable writes that are not: what is missing must be reported.
[[nodiscard]] SimResult run_lying_device(std::uint64_t count);
/// One record is damaged at a time: nothing else suffers.
[[nodiscard]] SimResult run_one_damaged_record(std::uint64_t count);

} // namespace tests
