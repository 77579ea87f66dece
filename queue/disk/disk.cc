#include "queue/disk/disk.h"

namespace queue {

std::string_view to_string(DiskError error) noexcept {
    switch (error) {
    case DiskError::io:
        return "input/output error";
    case DiskError::short_transfer:
        return "short transfer";
    case DiskError::no_space:
        return "no space";
    case DiskError::timed_out:
        return "timed out";
    }
    return "unknown";
}

base::Task<std::expected<void, DiskError>> Disk::read_copy(unsigned, std::uint64_t offset,
                                                           std::span<std::byte> bytes) {
    return read(offset, bytes);
}

base::Task<std::expected<void, DiskError>> Disk::make_alike(std::uint64_t, std::uint64_t) {
    co_return std::expected<void, DiskError>{};
}

} // namespace queue
