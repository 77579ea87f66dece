#include "queue/superblock_choice.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>
#include <vector>

namespace queue {

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
    // One copy alone may be half of an update.
    for (const Superblock& candidate : valid) {
        const auto same = std::ranges::count(valid, candidate.generation, &Superblock::generation);
        if (same < 2) continue;
        if (!choice.newest || candidate.generation > choice.newest->generation)
            choice.newest = candidate;
    }
    choice.half_blank = std::ranges::all_of(blocks.last<2 * block_bytes>(),
                                            [](std::byte byte) { return byte == std::byte{0}; });
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
