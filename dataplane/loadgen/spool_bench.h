// spool_bench.h: `millrace-bench spool`: what the durable queue does on a disk, beside what the disk can do.
//
// Scope      The queue alone, without SMTP: writers commit messages, a sink settles them at once, and
//            every commit is durable when it returns. Beside it in the same run: fio with DSYNC writes of the
//            spool's own batch size, in turn with it on a file beside the pool, and a file per message with its
//            own fsync, as Postfix keeps mail.
// Owns       A pool file in the folder given and fio's beside it, removed at the end.
// Threading  One thread, pinned; the comparisons run on the same CPU.
// Failure    Throws std::runtime_error with a text for a person.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace dataplane::loadgen {

struct SpoolCommand {
    std::string folder = "."; // on the disk to be measured
    // accept: as fast as it goes; paced: 10,000 messages of 30 KB a second, for the CPU they take;
    // file: a file and an fsync per message; queued: many messages that wait, their memory and a restart.
    std::vector<std::string> cases{"accept", "paced", "file"};
    std::vector<std::uint32_t> sizes{10'240, 30'720, 51'200};
    std::chrono::milliseconds time{5000}; // of each figure
    std::size_t writers = 512;            // as many sessions as a busy shard has
    std::uint32_t rate_per_s = 10'000;    // paced
    std::uint64_t queued = 1'000'000;     // messages
    std::uint32_t destinations = 50'000;
    std::uint64_t pool_mib = 4096;
    bool encrypt = false;        // at rest, under a made-up key
    std::string commit = "auto"; // dsync, flush, or what calibration chooses
    int cpu = 0;
    std::string json_file;
};

/// 0 when every case ran.
[[nodiscard]] int run_spool(const SpoolCommand& command);

} // namespace dataplane::loadgen
