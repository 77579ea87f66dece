#include "queue/superblock_choice.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>
#include <vector>

namespace queue {

namespace {

/// One copy alone may be half of an update.
[[nodiscard]] std::optional<Superblock> agreed(const std::vector<Superblock>& valid) {
    std::optional<Superblock> newest;
    for (const Superblock& candidate : valid) {
        const auto same = std::ranges::count(valid, candidate.generation, &Superblock::generation);
        if (same < 2) continue;
        if (!newest || candidate.generation > newest->generation) newest = candidate;
    }
    return newest;
}

} // namespace

SuperblockChoice
choose_superblock(std::span<const std::byte, superblock_copies * block_bytes> blocks) {
    SuperblockChoice choice;
    std::vector<Superblock> valid;
    for (std::uint32_t number = 0; number < superblock_copies; ++number) {
        const auto block = std::span<const std::byte>{blocks}.subspan(number * block_bytes);
        choice.copies[number] = decode_superblock(block.first<block_bytes>(), number);
        const SuperblockChoice::Copy& copy = choice.copies[number];
        if (copy) valid.push_back(*copy);
        if (!copy && copy.error() == CodecError::unsupported) choice.later_version = true;
    }
    choice.newest = agreed(valid);
    choice.half_blank = std::ranges::all_of(blocks.last<2 * block_bytes>(),
                                            [](std::byte byte) { return byte == std::byte{0}; });
    return choice;
}

SuperblockChoice choose_superblock(std::span<const SuperblockChoice> halves) {
    SuperblockChoice choice;
    std::vector<Superblock> valid;
    for (const SuperblockChoice& half : halves) {
        choice.later_version = choice.later_version || half.later_version;
        choice.half_blank = choice.half_blank || half.half_blank;
        if (half.newest &&
            (!choice.newest || half.newest->generation > choice.newest->generation)) {
            choice.newest = half.newest;
            choice.copies = half.copies;
        }
        for (const SuperblockChoice::Copy& copy : half.copies) {
            if (copy) valid.push_back(*copy);
        }
    }
    if (!choice.newest) choice.newest = agreed(valid);
    return choice;
}

std::expected<Superblock, std::string> read_superblock(const std::string& path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) return std::unexpected("cannot open " + path + ": " + std::strerror(errno));
    std::array<std::byte, superblock_copies * block_bytes> blocks;
    const ssize_t got = ::pread(file, blocks.data(), blocks.size(), 0);
    const int error = errno;
    ::close(file);
    if (got < 0) return std::unexpected("cannot read " + path + ": " + std::strerror(error));
    if (static_cast<std::size_t>(got) != blocks.size())
        return std::unexpected(path + " is too short to be a spool pool");
    const SuperblockChoice choice = choose_superblock(blocks);
    if (choice.later_version)
        return std::unexpected(path + " was written by a later version of this program");
    if (!choice.newest)
        return std::unexpected(path + " is no spool pool: no two copies of a superblock agree");
    return *choice.newest;
}

} // namespace queue
