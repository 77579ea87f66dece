// index.h: every accepted, unfinished message of the shard, by its id.
//
// Scope      A hash table with linear probing. Messages stay whole in memory in this version; the
//            table only ever sees ids and references, so that a smaller entry can take their place.
// Owns       One reference per message. Grows by doubling, never shrinks.
// Threading  Bound to one shard.
#pragma once

#include "queue/message.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace queue {

class MessageIndex {
public:
    MessageIndex();

    /// \pre  the id is not in the table
    void insert(MessageRef message);
    void erase(MessageId id) noexcept;
    [[nodiscard]] Message* find(MessageId id) const noexcept;
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    void clear() noexcept;

    /// The table itself, for walking it in slices: an entry may be empty, and between two slices
    /// entries may move or, when generation() has changed, all of them have.
    [[nodiscard]] std::span<const MessageRef> slots() const noexcept { return slots_; }
    [[nodiscard]] std::uint64_t generation() const noexcept { return generation_; }

private:
    [[nodiscard]] std::size_t home_of(MessageId id) const noexcept;
    void place(MessageRef message) noexcept;
    void grow();

    std::vector<MessageRef> slots_;
    std::size_t size_ = 0;
    std::uint64_t generation_ = 0;
};

} // namespace queue
