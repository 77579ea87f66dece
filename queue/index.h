// index.h: every accepted, unfinished message of the shard, in entries of fixed size.
//
// Scope      A hash table by id over an arena of entries. The table grows by one bucket with each entry
//            (linear hashing, Litwin 1980) and the arena by blocks, so that no insertion moves millions
//            of others. Walks go over the slots: a slot number stays good from turn to turn.
// Owns       The entries, what belongs to those with several recipients, and the texts of all.
// Threading  Bound to one shard.
#pragma once

#include "queue/entry.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace queue {

class Envelope;

class MessageIndex {
public:
    MessageIndex();

    /// An entry with nothing but its id.
    /// \pre  the id is not in the table
    [[nodiscard]] EntryRef insert(MessageId id);
    void erase(EntryRef ref) noexcept;
    [[nodiscard]] EntryRef find(MessageId id) const noexcept;
    [[nodiscard]] std::size_t size() const noexcept { return size_; }

    [[nodiscard]] Entry& operator[](EntryRef ref) noexcept {
        return blocks_[ref / block_entries][ref % block_entries];
    }
    [[nodiscard]] const Entry& operator[](EntryRef ref) const noexcept {
        return blocks_[ref / block_entries][ref % block_entries];
    }
    /// Slots below this may be in use; one that is not has the id 0.
    [[nodiscard]] EntryRef slot_count() const noexcept { return slot_count_; }

    /// Takes from the envelope what is kept of it. Every recipient is pending.
    void describe(EntryRef ref, const Envelope& envelope);
    void set_chunks(EntryRef ref, std::span<const Chunk> chunks);
    /// \pre  as many as the entry has recipients
    void set_status(EntryRef ref, std::span<const RecipientStatus> status);
    /// Shortened where the table of errors is full.
    void set_error(EntryRef ref, std::string_view error);

    [[nodiscard]] std::span<const RecipientStatus> status(const Entry& entry) const noexcept;
    [[nodiscard]] std::span<const Chunk> chunks(const Entry& entry) const noexcept;
    [[nodiscard]] std::span<Chunk> chunks(Entry& entry) noexcept;
    /// Of each recipient; one for a single-recipient message.
    [[nodiscard]] std::span<const TextId> domains(const Entry& entry) const noexcept;
    [[nodiscard]] std::size_t pending_count(const Entry& entry) const noexcept;
    [[nodiscard]] std::string_view error(const Entry& entry) const noexcept {
        return errors_.text(entry.error);
    }
    [[nodiscard]] const TextTable& texts() const noexcept { return texts_; }
    [[nodiscard]] TextTable& texts() noexcept { return texts_; }
    [[nodiscard]] const TextTable& errors() const noexcept { return errors_; }
    /// What entries and table take, extras and texts aside.
    [[nodiscard]] std::size_t memory_bytes() const noexcept;

    // For reading a checkpoint, which brings its own texts.
    void set_recipients(EntryRef ref, std::span<const TextId> domains);

private:
    static constexpr std::uint32_t block_entries = 4096;
    static constexpr std::uint32_t block_buckets = 16384;

    [[nodiscard]] std::uint32_t bucket_of(MessageId id) const noexcept;
    [[nodiscard]] EntryRef& bucket(std::uint32_t number) noexcept {
        return buckets_[number / block_buckets][number % block_buckets];
    }
    [[nodiscard]] EntryRef bucket(std::uint32_t number) const noexcept {
        return buckets_[number / block_buckets][number % block_buckets];
    }
    void add_bucket();
    [[nodiscard]] EntryExtra& extra_of(Entry& entry);
    void choose_domain(Entry& entry) noexcept;
    [[nodiscard]] TextId take_domain(std::string_view domain); // in lower case

    std::vector<std::unique_ptr<Entry[]>> blocks_;
    std::vector<std::unique_ptr<EntryRef[]>> buckets_;
    std::uint32_t bucket_count_ = 0;
    EntryRef slot_count_ = 0;
    EntryRef first_free_ = no_entry;
    std::size_t size_ = 0;
    std::vector<std::unique_ptr<EntryExtra>> extras_;
    std::vector<std::uint32_t> free_extras_;
    TextTable texts_;
    TextTable errors_;
    std::string folded_; // a domain, for a moment
};

} // namespace queue
