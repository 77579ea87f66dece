// crash_images.h: the disks that a power cut could have left at any moment of a recorded run.
//
// Scope      Goes through a spool journal (queue/disk/journal.h) and says at each entry what is safe, what is
//            uncertain, and which messages somebody was promised. A write is safe when it ended well as a
//            durable one, or a flush that began after its end did; until then each of its sectors is there,
//            is not there, or holds anything.
// Threading  Pure.
#pragma once

#include "queue/disk/journal.h"

#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <vector>

namespace tests {

class CrashImages {
public:
    explicit CrashImages(std::vector<queue::JournalRecord> journal);

    [[nodiscard]] std::size_t entry_count() const noexcept { return journal_.size(); }
    /// Goes on to where `entries` of them have happened; never back.
    void advance_to(std::size_t entries);
    /// What a power cut now leaves, by one draw.
    [[nodiscard]] std::vector<std::byte> draw(std::mt19937_64& random) const;

    /// Acknowledged to their clients and not done with, at this moment.
    [[nodiscard]] const std::set<std::uint64_t>& promised() const noexcept { return promised_; }
    /// Acknowledged to us by their hosts, or given up.
    [[nodiscard]] const std::set<std::uint64_t>& done() const noexcept { return done_; }
    [[nodiscard]] std::size_t uncertain_writes() const noexcept { return uncertain_.size(); }

private:
    struct Write {
        const queue::JournalRecord* begun = nullptr;
        bool ended = false;
        std::uint64_t flush = 0; // that began after its end; 0: none yet
    };

    void take(const queue::JournalRecord& record);
    void make_safe(const Write& write);

    std::vector<queue::JournalRecord> journal_;
    std::size_t at_ = 0;
    std::vector<std::byte> safe_;
    std::map<std::uint64_t, Write> uncertain_; // by number: in the order they began
    std::set<std::uint64_t> promised_;
    std::set<std::uint64_t> done_;
};

} // namespace tests
