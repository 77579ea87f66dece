// live_view.h: what the relay would find in a pool, by the relay's own recovery.
//
// Scope      Opens the queue on a PoolFile, whose writes stay in memory, and holds its index against the
//            catalogue, which was made without it.
// Owns       A clock that stands still, a loop, the queue.
// Threading  One thread.
#pragma once

#include "dataplane/base/loop.h"
#include "queue/queue.h"
#include "queue/tool/catalogue.h"

#include <expected>
#include <memory>
#include <string>
#include <vector>

namespace queue::tool {

/// A clock, a loop and nobody else: runs one task at a time to its end.
class Offline {
public:
    explicit Offline(unsigned shard);
    [[nodiscard]] base::Loop& loop() noexcept { return loop_; }
    [[nodiscard]] base::WallTime wall_now() const noexcept { return clock_.wall_now(); }

    template <class T>
    [[nodiscard]] T run(base::Task<T> task) {
        std::optional<T> value;
        auto wrap = [](base::Task<T> inner, std::optional<T>* out) -> base::Task<void> {
            auto result = co_await std::move(inner);
            out->emplace(std::move(result));
        };
        loop_.spawn(wrap(std::move(task), &value), "spool tool");
        turn_until([&value] { return value.has_value(); });
        return std::move(*value);
    }

private:
    void turn_until(const std::function<bool()>& done);
    base::ManualClock clock_;
    base::Loop loop_;
};

class LiveView {
public:
    [[nodiscard]] static std::expected<std::unique_ptr<LiveView>, std::string>
    open(PoolFile& pool, const Superblock& superblock, std::shared_ptr<const KeyRing> keys);

    [[nodiscard]] const RecoveryReport& report() const noexcept { return report_; }
    [[nodiscard]] const MessageIndex& index() const noexcept { return queue_->index(); }
    [[nodiscard]] base::WallTime now() const noexcept { return offline_.wall_now(); }
    [[nodiscard]] bool has(MessageId id) const noexcept {
        return queue_->index().find(id) != no_entry;
    }
    /// Gives a message the state that the index has, where that is newer than what its records say.
    void bring_up_to_date(MessageId id, StoredMessage& stored) const;
    /// Writes what lives into the segments.
    void count_live(std::vector<StoredSegment>& segments) const;
    /// What of the index the catalogue contradicts, and the other way round; one sentence each.
    [[nodiscard]] std::vector<std::string> compare(const Catalogue& catalogue) const;

private:
    explicit LiveView(const Superblock& superblock)
        : floor_(superblock.segment_floor), offline_(superblock.shard) {}
    std::uint64_t floor_; // what older segments hold counts no more
    Offline offline_;
    RecoveryReport report_;
    std::unique_ptr<MessageQueue> queue_;
};

} // namespace queue::tool
