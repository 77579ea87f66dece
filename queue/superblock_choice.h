// superblock_choice.h: which of the four copies of the superblock counts.
//
// Scope      The rule of docs/spool-format.md: the newest generation that two copies agree on. For
//            recovery, which goes on from it, and for whoever only wants to know what a file is.
// Threading  Any.
// Failure    What is wrong with each copy is told; judging it is the caller's.
#pragma once

#include "queue/codec.h"

#include <array>
#include <expected>
#include <optional>
#include <span>
#include <string>

namespace queue {

struct SuperblockChoice {
    using Copy = std::expected<Superblock, CodecError>;
    std::array<Copy, superblock_copies> copies{};
    std::optional<Superblock> newest; // two copies agree on it
    bool later_version = false;       // one was written by a program that we do not understand
    bool half_blank = false;          // copies 2 and 3 are zero: formatting had not come further
};

[[nodiscard]] SuperblockChoice
choose_superblock(std::span<const std::byte, superblock_copies * block_bytes> blocks);

/// Of a mirror's halves: the newest that one of them would go on from; without one, what two copies agree on,
/// whichever half they are on. A single copy of each half may be half of an update, and so be the same.
[[nodiscard]] SuperblockChoice choose_superblock(std::span<const SuperblockChoice> halves);

/// Of the file, without a lock. The error is a sentence for the operator.
[[nodiscard]] std::expected<Superblock, std::string> read_superblock(const std::string& path);

} // namespace queue
