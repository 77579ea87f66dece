// pool_checks.h: whether a file system overwrites a pool in place, as the spool's speed assumes.
//
// Scope      What a file system and a file's extents say (examine), and what follows (judge). A write into a
//            file that is copied elsewhere on each write, or whose extents were never written, is still safe
//            when flushed, only slower: such pools go with CommitStrategy::flush. What loses mail is refused.
// Threading  Start-up; may block.
// Failure    examine() leaves out what the kernel does not tell.
#pragma once

#include <cstdint>
#include <string>

namespace queue {

struct PoolFacts {
    std::uint64_t file_system = 0; // statfs's f_type
    bool extents_known = false;
    bool unwritten = false;                // preallocated, never written
    bool shared = false;                   // with a snapshot or a copy by reference
    bool encoded = false;                  // compressed or encrypted by the file system
    bool in_metadata = false;              // inline, or the tail of another's block
    bool direct_known = false;             // the two below
    std::uint32_t direct_offset_bytes = 0; // alignment; 0: no direct I/O
    std::uint32_t direct_memory_bytes = 0;
};

enum class PoolVerdict : std::uint8_t {
    overwrites, // in place: both strategies
    flush_only, // each write costs the file system a change of its own: one flush for many
    refused,    // mail would be lost
};

struct PoolJudgement {
    PoolVerdict verdict = PoolVerdict::overwrites;
    std::string why; // with the remedy; empty when it overwrites
};

[[nodiscard]] PoolFacts examine(int descriptor);
[[nodiscard]] PoolJudgement judge(const PoolFacts& facts);

} // namespace queue
