// site_ledger.h: what all shards together do to one site: connections open, and when the next
// message may go.
//
// Scope      One entry per (site, source) for connections, one per site for its message rate. The
//            limits themselves are policy's and come with each call.
// Owns       A table of fixed size, shared by all shards; entries are counted in and out by
//            attach().
// Threading  Any shard, without locks. This is shared memory on purpose: it is touched once when a
//            connection opens, once when it closes, and once per message of a site that has a rate.
//            A lease per shard would spare the cache line and cost exactness at small limits, which
//            are the ones that providers enforce.
// Failure    attach() may say "not now": the bucket is full, or another shard is at it this
//            instant. The caller comes back later, as it does when all connections are taken.
#pragma once

#include "dataplane/base/clock.h"
#include "dataplane/delivery/limits.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

namespace dataplane::delivery {

class SiteLedger {
public:
    class Entry {
    public:
        /// Takes one connection when fewer than `limit` are open.
        [[nodiscard]] bool open_connection(std::uint32_t limit) noexcept;
        void close_connection() noexcept;
        [[nodiscard]] std::uint32_t connections() const noexcept {
            return connections_.load(std::memory_order_relaxed);
        }

        /// What one of the shards that use this entry may count on when all of them want some of
        /// `limit` connections: 1 at least.
        [[nodiscard]] std::uint32_t fair_share(std::uint32_t limit) const noexcept {
            return std::max(1U, limit / std::max(1U, users()));
        }
        /// What a shard wants and could not have. Whoever has idle connections lets go of them for
        /// any; whoever has more than its share, for one that has less.
        enum class Want : std::uint8_t { nothing, more, its_share };
        void change_want(Want from, Want to) noexcept;
        [[nodiscard]] bool wanted() const noexcept {
            return wanting_.load(std::memory_order_relaxed) > 0;
        }
        [[nodiscard]] bool contended() const noexcept {
            return short_of_share_.load(std::memory_order_relaxed) > 0;
        }
        /// Whether a shard with `held` connections in use should let go of one. Where there are fewer
        /// than shards, they go round.
        [[nodiscard]] bool too_many(std::uint32_t held, std::uint32_t limit) const noexcept {
            return contended() && (held > fair_share(limit) || limit < users());
        }

        /// Takes the next place in the site's rate and returns its time, which may have come
        /// already. Places are 1 s / rate apart (GCRA without a burst), whichever shards ask: all
        /// their loops read one clock. A place is forfeited when nobody asks for it within
        /// rate_slack.
        [[nodiscard]] base::TimePoint next_message(base::TimePoint now,
                                                   std::uint32_t per_second) noexcept;

    private:
        friend class SiteLedger;
        [[nodiscard]] std::uint32_t users() const noexcept {
            return users_.load(std::memory_order_relaxed);
        }

        std::atomic<std::uint64_t> key_{0}; // 0: free; changed only under the bucket's mark
        std::atomic<std::uint32_t> users_{0};
        std::atomic<std::uint32_t> connections_{0};
        std::atomic<std::int32_t> wanting_{0}; // shards that want any
        std::atomic<std::int32_t> short_of_share_{0};
        std::atomic<std::int64_t> next_place_ns_{0};
    };

    /// A shard's hold on an entry.
    class Hold {
    public:
        Hold() = default;
        Hold(Hold&& other) noexcept : entry_(std::exchange(other.entry_, nullptr)) {}
        Hold& operator=(Hold&& other) noexcept {
            if (this != &other) {
                reset();
                entry_ = std::exchange(other.entry_, nullptr);
            }
            return *this;
        }
        ~Hold() { reset(); }
        void reset() noexcept;
        [[nodiscard]] explicit operator bool() const noexcept { return entry_ != nullptr; }
        Entry* operator->() const noexcept { return entry_; }

    private:
        friend class SiteLedger;
        explicit Hold(Entry* entry) noexcept : entry_(entry) {}
        Entry* entry_ = nullptr;
    };

    // A timer fires up to a tick late, and a connection that waits for each place would lose that
    // much every time: lateness up to this is made up for.
    static constexpr base::Duration rate_slack = std::chrono::milliseconds{2};

    explicit SiteLedger(std::size_t bucket_count = ledger_buckets);

    /// The entry of this name, made when it is new; empty: try again later. A name is a site's, or
    /// a site's and a source's, and is told apart by 64 bits of hash.
    [[nodiscard]] Hold attach(std::string_view name) noexcept;

private:
    struct alignas(64) Bucket {
        std::atomic<bool> busy{false};
        std::array<Entry, ledger_bucket_slots> slots;
    };
    std::unique_ptr<Bucket[]> buckets_;
    std::size_t mask_;
};

} // namespace dataplane::delivery
