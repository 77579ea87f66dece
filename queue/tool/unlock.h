// unlock.h: the keys of a pool's segments, for reading what is encrypted in them.
//
// Scope      Keeps the key of each slot as its segment's header gives it, and opens records with it. Without
//            the operator's keys nothing opens, and checksums still check: they are over what is stored.
// Owns       The segments' keys.
// Threading  One thread.
#pragma once

#include "queue/cipher.h"
#include "queue/keyring.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace queue::tool {

class Unlock {
public:
    /// \param keys  null: there are none
    Unlock(const Superblock& superblock, std::shared_ptr<const KeyRing> keys)
        : keys_(std::move(keys)), pool_(superblock.pool), shard_(superblock.shard),
          cipher_(superblock.pool, superblock.shard), slots_(superblock.segment_count) {}

    /// Takes the key of the segment that a slot holds.
    void learn(std::uint32_t slot, const SegmentHeader& header) {
        if (!header.key || keys_ == nullptr) return;
        const auto key = keys_->unwrap(*header.key, pool_, shard_, header.segment_seq);
        if (key) slots_[slot] = *key;
    }
    /// The payload, in place and without its tag; nothing when it does not open.
    [[nodiscard]] std::optional<std::span<const std::byte>>
    open(std::uint32_t slot, std::uint64_t segment_seq, std::uint32_t offset,
         const RecordHeader& header, std::span<std::byte> stored) {
        if (!header.encrypted()) return stored;
        if (!slots_[slot] ||
            !cipher_.open_record({*slots_[slot], segment_seq, offset, header}, stored)) {
            return std::nullopt;
        }
        return stored.first(header.payload_bytes);
    }
    [[nodiscard]] bool has_keys() const noexcept { return keys_ != nullptr; }
    [[nodiscard]] const std::shared_ptr<const KeyRing>& keys() const noexcept { return keys_; }

private:
    std::shared_ptr<const KeyRing> keys_;
    PoolId pool_;
    std::uint32_t shard_;
    RecordCipher cipher_;
    std::vector<std::optional<DataKey>> slots_;
};

} // namespace queue::tool
