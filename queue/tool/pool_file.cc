#include "queue/tool/pool_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <sys/file.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

namespace queue::tool {
namespace {

// A relay that was killed keeps its lock until the kernel has ended the writes it had in flight.
constexpr auto lock_wait = std::chrono::seconds{2};
constexpr auto lock_retry = std::chrono::milliseconds{20};
constexpr std::size_t zero_bytes = 1U << 20;

[[nodiscard]] std::unexpected<std::string> fail(const std::string& what, const std::string& path,
                                                int error) {
    return std::unexpected(what + " " + path + ": " + std::strerror(error));
}

[[nodiscard]] bool take_lock(int file) {
    const auto end = std::chrono::steady_clock::now() + lock_wait;
    while (::flock(file, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK || std::chrono::steady_clock::now() >= end) return false;
        std::this_thread::sleep_for(lock_retry);
    }
    return true;
}

/// Whether all of it was read; what follows the file's end was not.
[[nodiscard]] bool read_all(int file, std::uint64_t offset, std::span<std::byte> bytes) {
    while (!bytes.empty()) {
        const ssize_t got = ::pread(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        bytes = bytes.subspan(static_cast<std::size_t>(got));
        offset += static_cast<std::uint64_t>(got);
    }
    return true;
}

[[nodiscard]] bool write_all(int file, std::uint64_t offset, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const ssize_t put = ::pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return false;
        bytes = bytes.subspan(static_cast<std::size_t>(put));
        offset += static_cast<std::uint64_t>(put);
    }
    return true;
}

} // namespace

std::expected<std::unique_ptr<PoolFile>, std::string> PoolFile::open(const std::string& path,
                                                                     Lock lock) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) return fail("cannot open", path, errno);
    struct stat status{};
    if (::fstat(file, &status) != 0) {
        const int error = errno;
        ::close(file);
        return fail("cannot examine", path, error);
    }
    const auto bytes = static_cast<std::uint64_t>(::lseek(file, 0, SEEK_END));
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) {
        ::close(file);
        return std::unexpected(path + " is neither a file nor a block device");
    }
    if (lock == Lock::exclusive && !take_lock(file)) {
        const bool held = errno == EWOULDBLOCK;
        const int error = errno;
        ::close(file);
        if (!held) return fail("cannot lock", path, error);
        return std::unexpected(path + ": a running relay has this pool open; stop millraced first, "
                                      "or look with inspect --no-lock");
    }
    return std::unique_ptr<PoolFile>{new PoolFile{path, file, bytes}};
}

PoolFile::~PoolFile() {
    ::close(descriptor_);
}

bool PoolFile::read_file(std::uint64_t offset, std::span<std::byte> bytes) const {
    if (read_all(descriptor_, offset, bytes)) return true;
    // One bad block must not cost the rest.
    bool whole = true;
    for (std::size_t at = 0; at < bytes.size(); at += block_bytes) {
        const auto part = bytes.subspan(at, std::min(block_bytes, bytes.size() - at));
        if (read_all(descriptor_, offset + at, part)) continue;
        std::ranges::fill(part, std::byte{0});
        whole = false;
    }
    return whole;
}

base::Task<std::expected<void, DiskError>>
PoolFile::write(std::uint64_t offset, std::span<const std::byte> bytes, Durable) {
    for (std::size_t at = 0; at < bytes.size(); at += block_bytes) {
        auto& block = written_[(offset + at) / block_bytes];
        if (block == nullptr) block = std::make_unique<Block>();
        std::memcpy(block->data(), bytes.data() + at, block_bytes);
    }
    co_return std::expected<void, DiskError>{};
}

base::Task<std::expected<void, DiskError>> PoolFile::read(std::uint64_t offset,
                                                          std::span<std::byte> bytes) {
    if (!read_all(descriptor_, offset, bytes)) co_return std::unexpected(DiskError::io);
    if (!written_.empty()) {
        for (std::size_t at = 0; at < bytes.size(); at += block_bytes) {
            const auto found = written_.find((offset + at) / block_bytes);
            if (found != written_.end())
                std::memcpy(bytes.data() + at, found->second->data(), block_bytes);
        }
    }
    co_return std::expected<void, DiskError>{};
}

base::Task<std::expected<void, DiskError>> PoolFile::flush() {
    co_return std::expected<void, DiskError>{};
}

std::expected<std::unique_ptr<NewPoolFile>, std::string>
NewPoolFile::create(const std::string& path, std::uint64_t bytes) {
    const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) return fail("cannot create", path, errno);
    std::unique_ptr<NewPoolFile> made{new NewPoolFile{file, bytes}};
    if (!take_lock(file)) return std::unexpected(path + ": another upgrade is writing it");
    if (::ftruncate(file, 0) != 0) return fail("cannot empty", path, errno);
    static_cast<void>(::fallocate(file, 0, 0, static_cast<off_t>(bytes)));
    // Real zeros, as the relay makes them: later writes are then plain overwrites.
    const std::vector<std::byte> zeros(zero_bytes);
    for (std::uint64_t at = 0; at < bytes; at += zero_bytes) {
        const auto part = std::min<std::uint64_t>(zero_bytes, bytes - at);
        if (!write_all(file, at, std::span{zeros}.first(part))) {
            const int error = errno;
            static_cast<void>(::unlink(path.c_str()));
            return fail("cannot write", path, error);
        }
    }
    return made;
}

NewPoolFile::~NewPoolFile() {
    ::close(descriptor_);
}

base::Task<std::expected<void, DiskError>>
NewPoolFile::write(std::uint64_t offset, std::span<const std::byte> bytes, Durable) {
    if (!write_all(descriptor_, offset, bytes)) co_return std::unexpected(DiskError::io);
    co_return std::expected<void, DiskError>{}; // durable with all the rest: see flush()
}

base::Task<std::expected<void, DiskError>> NewPoolFile::read(std::uint64_t offset,
                                                             std::span<std::byte> bytes) {
    if (!read_all(descriptor_, offset, bytes)) co_return std::unexpected(DiskError::io);
    co_return std::expected<void, DiskError>{};
}

base::Task<std::expected<void, DiskError>> NewPoolFile::flush() {
    if (::fsync(descriptor_) != 0) co_return std::unexpected(DiskError::io);
    co_return std::expected<void, DiskError>{};
}

std::expected<void, std::string> sync_folder_of(const std::string& path) {
    std::string folder = std::filesystem::path(path).parent_path().string();
    if (folder.empty()) folder = ".";
    const int file = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file < 0) return fail("cannot open", folder, errno);
    const bool synced = ::fsync(file) == 0;
    const int error = errno;
    ::close(file);
    if (!synced) return fail("cannot sync", folder, error);
    return {};
}

} // namespace queue::tool
