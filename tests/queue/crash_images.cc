#include "tests/queue/crash_images.h"

#include "dataplane/base/check.h"

#include <algorithm>
#include <cstring>

namespace tests {
namespace {

constexpr std::size_t sector_bytes = 512;

bool overlap(const queue::JournalRecord& a, const queue::JournalRecord& b) {
    return a.entry.offset < b.entry.offset + b.bytes.size() &&
           b.entry.offset < a.entry.offset + a.bytes.size();
}

} // namespace

CrashImages::CrashImages(std::vector<queue::JournalRecord> journal)
    : journal_(std::move(journal)), safe_(journal_.at(0).entry.offset) {
    // Before the pool's own first write there is no spool to open.
    while (at_ < journal_.size() && journal_[at_].entry.kind != queue::JournalKind::accepted)
        take(journal_[at_++]);
}

void CrashImages::make_safe(const Write& write) {
    std::memcpy(safe_.data() + write.begun->entry.offset, write.begun->bytes.data(),
                write.begun->bytes.size());
}

void CrashImages::take(const queue::JournalRecord& record) {
    const queue::JournalEntry& entry = record.entry;
    switch (entry.kind) {
    case queue::JournalKind::opened:
        break;
    case queue::JournalKind::write_begun:
        CHECK(entry.offset + record.bytes.size() <= safe_.size());
        // Nobody may write over what is not safe yet, but for a place whose write was refused.
        std::erase_if(uncertain_, [&](const auto& other) {
            return other.second.ended && other.second.flush == 0 &&
                   overlap(*other.second.begun, record);
        });
        uncertain_[entry.number] = {.begun = &record};
        break;
    case queue::JournalKind::write_ended: {
        const auto found = uncertain_.find(entry.number);
        CHECK(found != uncertain_.end());
        if (entry.succeeded && found->second.begun->entry.durable) {
            make_safe(found->second);
            uncertain_.erase(found);
        } else {
            found->second.ended = true; // refused: both may be there for good
        }
        break;
    }
    case queue::JournalKind::flush_begun:
        for (auto& [number, write] : uncertain_) {
            if (write.ended && write.flush == 0) write.flush = entry.number;
        }
        break;
    case queue::JournalKind::flush_ended:
        for (auto write = uncertain_.begin(); write != uncertain_.end();) {
            if (write->second.flush != entry.number) {
                ++write;
            } else if (entry.succeeded) {
                make_safe(write->second);
                write = uncertain_.erase(write);
            } else {
                write->second.flush = 0;
                ++write;
            }
        }
        break;
    case queue::JournalKind::accepted:
        if (!done_.contains(entry.number)) promised_.insert(entry.number);
        break;
    case queue::JournalKind::delivered:
        promised_.erase(entry.number);
        done_.insert(entry.number);
        break;
    }
}

void CrashImages::advance_to(std::size_t entries) {
    CHECK(entries <= journal_.size());
    while (at_ < entries)
        take(journal_[at_++]);
}

std::vector<std::byte> CrashImages::draw(std::mt19937_64& random) const {
    std::vector<std::byte> image = safe_;
    for (const auto& [number, write] : uncertain_) {
        const std::uint64_t fate = random() % 3; // whole, not at all, or in parts
        if (fate == 1) continue;
        for (std::size_t at = 0; at < write.begun->bytes.size(); at += sector_bytes) {
            std::byte* const to = image.data() + write.begun->entry.offset + at;
            const std::uint64_t part = fate == 0 ? 0 : random() % 10;
            if (part < 5) {
                std::memcpy(to, write.begun->bytes.data() + at, sector_bytes);
            } else if (part == 9) {
                for (std::size_t i = 0; i < sector_bytes; i += sizeof(std::uint64_t)) {
                    const std::uint64_t noise = random();
                    std::memcpy(to + i, &noise, sizeof noise);
                }
            }
        }
    }
    return image;
}

} // namespace tests
