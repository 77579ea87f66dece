#include "queue/disk/pool_checks.h"

#include "queue/disk/disk.h"

#include <array>
#include <cstring>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <memory>
#include <string_view>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>

namespace queue {
namespace {

// Numbers that <linux/magic.h> does not have.
constexpr std::uint64_t zfs_magic = 0x2FC1'2FC1;
constexpr std::uint64_t cifs_magic = 0xFF53'4D42;

constexpr std::uint32_t extents_per_call = 256;
constexpr unsigned calls_max = 256; // a pool in more pieces than this has told enough

constexpr std::string_view remedy_real_disk = ". Put the spool on a file system on a real disk "
                                              "(ext4 or XFS), not on tmpfs or a network share.";

void examine_extents(int descriptor, PoolFacts& facts) {
    constexpr std::size_t bytes = sizeof(fiemap) + extents_per_call * sizeof(fiemap_extent);
    struct Free {
        void operator()(fiemap* memory) const noexcept { ::operator delete(memory); }
    };
    const std::unique_ptr<fiemap, Free> map{static_cast<fiemap*>(::operator new(bytes))};
    std::uint64_t from = 0;
    for (unsigned call = 0; call < calls_max; ++call) {
        std::memset(map.get(), 0, bytes);
        map->fm_start = from;
        map->fm_length = FIEMAP_MAX_OFFSET - from;
        map->fm_extent_count = extents_per_call;
        if (::ioctl(descriptor, FS_IOC_FIEMAP, map.get()) != 0) return;
        facts.extents_known = true;
        const auto* const extents = reinterpret_cast<const fiemap_extent*>(map.get() + 1);
        for (std::uint32_t i = 0; i < map->fm_mapped_extents; ++i) {
            const std::uint32_t flags = extents[i].fe_flags;
            facts.unwritten |= (flags & FIEMAP_EXTENT_UNWRITTEN) != 0;
            facts.shared |= (flags & FIEMAP_EXTENT_SHARED) != 0;
            facts.encoded |= (flags & (FIEMAP_EXTENT_ENCODED | FIEMAP_EXTENT_DATA_ENCRYPTED)) != 0;
            facts.in_metadata |=
                (flags & (FIEMAP_EXTENT_DATA_INLINE | FIEMAP_EXTENT_DATA_TAIL)) != 0;
            from = extents[i].fe_logical + extents[i].fe_length;
            if ((flags & FIEMAP_EXTENT_LAST) != 0) return;
        }
        if (map->fm_mapped_extents == 0) return;
    }
}

[[nodiscard]] PoolJudgement refused(std::string why) {
    return {PoolVerdict::refused, std::move(why)};
}

[[nodiscard]] PoolJudgement flush_only(std::string why) {
    return {PoolVerdict::flush_only, std::move(why)};
}

} // namespace

PoolFacts examine(int descriptor) {
    PoolFacts facts;
    struct statfs system{};
    if (::fstatfs(descriptor, &system) == 0)
        facts.file_system = static_cast<std::uint32_t>(system.f_type);
#ifdef STATX_DIOALIGN
    struct statx status{};
    if (::statx(descriptor, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
        (status.stx_mask & STATX_DIOALIGN) != 0) { // Linux 6.1 and later
        facts.direct_known = true;
        facts.direct_offset_bytes = status.stx_dio_offset_align;
        facts.direct_memory_bytes = status.stx_dio_mem_align;
    }
#endif
    examine_extents(descriptor, facts);
    return facts;
}

PoolJudgement judge(const PoolFacts& facts) {
    // tmpfs takes O_DIRECT since Linux 6.6, and keeps everything in memory all the same.
    if (facts.file_system == TMPFS_MAGIC || facts.file_system == RAMFS_MAGIC)
        return refused("the file system lives in memory and would lose mail" +
                       std::string{remedy_real_disk});
    if (facts.file_system == NFS_SUPER_MAGIC || facts.file_system == SMB_SUPER_MAGIC ||
        facts.file_system == SMB2_SUPER_MAGIC || facts.file_system == cifs_magic ||
        facts.file_system == V9FS_MAGIC)
        return refused("a network share may lose its server's memory with acknowledged mail" +
                       std::string{remedy_real_disk});
    if (facts.direct_known && (facts.direct_offset_bytes == 0 || facts.direct_memory_bytes == 0))
        return refused("the file system does not support direct I/O on this file" +
                       std::string{remedy_real_disk});
    if (facts.direct_known &&
        (facts.direct_offset_bytes > block_bytes || facts.direct_memory_bytes > block_bytes))
        return refused("direct I/O needs an alignment of " +
                       std::to_string(facts.direct_offset_bytes) + " bytes, and a spool has " +
                       std::to_string(block_bytes) + std::string{remedy_real_disk});

    if (facts.file_system == BTRFS_SUPER_MAGIC)
        return flush_only("btrfs writes each block to a new place. Give the spool ext4 or XFS");
    if (facts.file_system == zfs_magic)
        return flush_only("ZFS writes each block to a new place. Give the spool ext4 or XFS");
    if (facts.file_system == OVERLAYFS_SUPER_MAGIC)
        return flush_only(
            "an overlay is a container's own layer, and goes when the container goes. "
            "Give the spool a volume of its own");
    if (facts.shared)
        return flush_only(
            "parts of the pool are shared with a snapshot or a reflink copy, so that "
            "the first write to each is a copy. Delete the snapshot, or let a drained "
            "spool be made anew");
    if (facts.encoded || facts.in_metadata)
        return flush_only("the file system compresses the pool or keeps it in its own records. "
                          "Switch that off for the spool's folder, and let a drained spool be made "
                          "anew");
    if (facts.unwritten)
        return flush_only(
            "parts of the pool were preallocated and never written, so that the first "
            "write to each changes the file system's journal. Let the relay make the "
            "pool itself");
    return {};
}

} // namespace queue
