// flow_table.h: finds the connection, or the TIME_WAIT record, that a segment belongs to.
//
// Scope      Open addressing in buckets of one cache line: ten entries of a 16-bit tag and a 32-bit number.
//            What the number means, and what key it has, the owner knows: it is asked (KeyOf) when a
//            tag matches and when the table grows.
// Owns       The buckets. Growing maps new ones and moves entries a few at a time with each insertion
//            and each work(), so that no single call is long even at a million entries.
// Threading  One shard. No allocation but when growing.
// Failure    Running out of memory while growing ends the process, as operator new does.
//
// A bucket counts the entries that found it full and went on to a later one; a look-up goes on past a
// bucket only while that count is not zero. So an erased entry leaves no tombstone behind.
#pragma once

#include "dataplane/base/check.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace dataplane::net::stack {

namespace detail {

struct alignas(64) FlowBucket {
    static constexpr unsigned entries = 10;
    std::array<std::uint16_t, entries> tags;
    std::uint16_t used;     // bit i: entry i holds something
    std::uint16_t overflow; // entries of this or an earlier bucket that lie behind it
    std::array<std::uint32_t, entries> values;
};
static_assert(sizeof(FlowBucket) == 64, "a look-up touches one cache line");

/// Buckets as fresh, zeroed pages: what is not touched costs nothing, not even time.
class FlowBuckets {
public:
    FlowBuckets() noexcept = default;
    explicit FlowBuckets(std::size_t count); // a power of two
    FlowBuckets(FlowBuckets&& other) noexcept;
    FlowBuckets& operator=(FlowBuckets&& other) noexcept;
    ~FlowBuckets();

    [[nodiscard]] FlowBucket& operator[](std::size_t index) const noexcept {
        return buckets_[index];
    }
    [[nodiscard]] std::size_t count() const noexcept { return count_; }
    /// Gives back the memory of the buckets in front of `index`, page by page.
    void release_front(std::size_t index) noexcept;

private:
    FlowBucket* buckets_ = nullptr;
    std::size_t count_ = 0;
    std::size_t released_bytes_ = 0;
};

} // namespace detail

class FlowTable {
public:
    /// \param matches  bool(std::uint32_t value): whether the value's key is the one looked for
    template <class Matches>
    [[nodiscard]] std::optional<std::uint32_t> find(std::uint64_t hash,
                                                    const Matches& matches) const noexcept {
        if (const auto place = locate(current_, hash, matches)) {
            return current_[place->bucket].values[place->entry];
        }
        if (old_.count() == 0) return std::nullopt;
        if (const auto place = locate(old_, hash, matches)) {
            return old_[place->bucket].values[place->entry];
        }
        return std::nullopt;
    }
    /// Brings the bucket where a look-up begins into the cache.
    void prefetch(std::uint64_t hash) const noexcept {
        if (current_.count() != 0) __builtin_prefetch(&current_[home(current_, hash)]);
    }

    /// What find() will most likely give, without looking at its key: for prefetching.
    [[nodiscard]] std::optional<std::uint32_t> guess(std::uint64_t hash) const noexcept {
        const auto any = [](std::uint32_t) { return true; };
        const auto place = locate(current_, hash, any);
        if (!place) return std::nullopt;
        return current_[place->bucket].values[place->entry];
    }

    /// \pre  nothing with this key is in the table
    /// \param hash_of  std::uint64_t(std::uint32_t value): for entries that move while the table grows
    template <class HashOf>
    void insert(std::uint64_t hash, std::uint32_t value, const HashOf& hash_of) {
        if (size_ + 1 > grow_at_) grow();
        move_some(moves_per_insert, hash_of);
        place(hash, value);
        ++size_;
    }
    /// The entry with this hash and value now holds another value, of the same key.
    void replace(std::uint64_t hash, std::uint32_t value, std::uint32_t with) noexcept;
    /// \pre  it is in the table
    void erase(std::uint64_t hash, std::uint32_t value) noexcept;

    /// A share of the growing that is under way; once per turn.
    template <class HashOf>
    void work(const HashOf& hash_of) {
        if (old_.count() != 0) move_some(moves_per_turn, hash_of);
    }

    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] std::size_t bucket_count() const noexcept { return current_.count(); }
    [[nodiscard]] bool growing() const noexcept { return old_.count() != 0; }

private:
    struct Place {
        std::size_t bucket;
        unsigned entry;
    };
    // Growing doubles the table, so that moving one bucket for each insertion is done long before the
    // next growth is due: that many buckets' worth of entries are ten times as many insertions away.
    static constexpr std::size_t moves_per_insert = 1;
    static constexpr std::size_t moves_per_turn = 64;

    [[nodiscard]] static std::size_t home(const detail::FlowBuckets& in,
                                          std::uint64_t hash) noexcept {
        return static_cast<std::size_t>(hash) & (in.count() - 1);
    }
    [[nodiscard]] static std::uint16_t tag_of(std::uint64_t hash) noexcept {
        return static_cast<std::uint16_t>(hash >> 48);
    }
    template <class Matches>
    [[nodiscard]] static std::optional<Place>
    locate(const detail::FlowBuckets& in, std::uint64_t hash, const Matches& matches) noexcept {
        if (in.count() == 0) return std::nullopt;
        const std::uint16_t tag = tag_of(hash);
        std::size_t index = home(in, hash);
        for (std::size_t steps = 0; steps < in.count(); ++steps) {
            const detail::FlowBucket& bucket = in[index];
            for (unsigned i = 0; i < detail::FlowBucket::entries; ++i) {
                if (bucket.tags[i] == tag && (bucket.used >> i & 1U) != 0 &&
                    matches(bucket.values[i])) {
                    return Place{index, i};
                }
            }
            if (bucket.overflow == 0) return std::nullopt;
            index = (index + 1) & (in.count() - 1);
        }
        return std::nullopt;
    }
    template <class HashOf>
    void move_some(std::size_t buckets, const HashOf& hash_of) {
        for (; buckets > 0 && old_.count() != 0; --buckets) {
            detail::FlowBucket& from = old_[moved_];
            for (unsigned i = 0; i < detail::FlowBucket::entries; ++i) {
                if ((from.used >> i & 1U) == 0) continue;
                const std::uint32_t value = from.values[i];
                const std::uint64_t hash = hash_of(value);
                remove(old_, {moved_, i}, hash);
                place(hash, value);
            }
            bucket_moved();
        }
    }
    [[nodiscard]] std::optional<Place> locate_value(const detail::FlowBuckets& in,
                                                    std::uint64_t hash,
                                                    std::uint32_t value) const noexcept;
    void place(std::uint64_t hash, std::uint32_t value) noexcept;
    static void remove(const detail::FlowBuckets& in, Place place, std::uint64_t hash) noexcept;
    void bucket_moved() noexcept;
    void grow();

    detail::FlowBuckets current_;
    detail::FlowBuckets old_; // while growing: entries that have not moved yet
    std::size_t moved_ = 0;   // buckets of old_ that are empty for good
    std::size_t size_ = 0;
    std::size_t grow_at_ = 0;
};

} // namespace dataplane::net::stack
