// calibration.h: which way of making writes durable suits a device, decided by measuring both.
//
// Scope      A quarter of a second at start: groups of writes made durable by RWF_DSYNC, by one fdatasync after plain
//            writes, and not at all, in turn, in a file of its own beside the pool. choose() is arithmetic alone.
// Owns       The file, removed at the end.
// Threading  Start-up; blocks for calibration_time at most, and what a slow device takes for its last groups.
// Failure    measure() returns a sentence when it cannot: without numbers the choice is dsync.
#pragma once

#include "queue/disk/uring_file.h"

#include <array>
#include <chrono>
#include <cstdint>
#include <expected>
#include <string>

namespace queue {

inline constexpr std::array<std::uint32_t, 3> calibration_sizes{4U << 10, 64U << 10, 512U << 10};
inline constexpr unsigned calibration_group =
    4; // writes at a time, as many as a busy log has in flight
inline constexpr std::chrono::milliseconds calibration_time{270}; // a start has a second in all

/// Writes a second: of the middle one of all groups.
struct CommitRates {
    std::uint32_t write_bytes = 0;
    double dsync = 0;
    double flush = 0;
    double plain = 0; // not durable
};

struct Calibration {
    std::array<CommitRates, calibration_sizes.size()> rates{};
    bool volatile_cache = false; // the device says "write back"
    bool fua = false;            // ... and that it takes FUA
};

struct CommitChoice {
    CommitStrategy strategy = CommitStrategy::dsync;
    // It says that its cache is volatile, yet durable writes cost nothing: perhaps they are not durable.
    bool suspect = false;
    std::string why; // the numbers, in a sentence
};

/// Flushing must win by this much, over all sizes: it costs a hop to another thread, and with it a third more CPU time
/// where commits are small.
inline constexpr double flush_advantage_min = 1.5;
/// Durable writes at this share of the rate of plain ones are suspect with a volatile cache.
inline constexpr double suspect_share = 0.95;

[[nodiscard]] CommitChoice choose(const Calibration& measured);
/// \param folder  of the pool
[[nodiscard]] std::expected<Calibration, std::string> measure(const std::string& folder);

} // namespace queue
