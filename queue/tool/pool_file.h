// pool_file.h: a pool that no relay has open, read as it is; what is written to it stays in memory.
//
// Scope      The Disk under everything the tool does with an existing pool. The queue's own recovery runs
//            on it and may write: its blocks lie over the file's and go with the process.
// Owns       The descriptor, the lock, the blocks written.
// Threading  One thread. Blocks: the tool has nothing else to do.
// Failure    open(): a sentence for the operator. Reads: DiskError, and the place stays unread.
#pragma once

#include "queue/disk/disk.h"

#include <array>
#include <chrono>
#include <cstdint>
#include <expected>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

namespace queue::tool {

class PoolFile final : public Disk {
public:
    enum class Lock : std::uint8_t {
        exclusive, // nobody else has the pool open, or open() refuses
        none,      // a relay may be writing: what is read need not fit together
    };
    [[nodiscard]] static std::expected<std::unique_ptr<PoolFile>, std::string>
    open(const std::string& path, Lock lock);
    ~PoolFile() override;

    [[nodiscard]] const std::string& path() const noexcept { return path_; }
    [[nodiscard]] std::uint64_t size_bytes() const noexcept override { return bytes_; }
    [[nodiscard]] base::Task<std::expected<void, DiskError>>
    write(std::uint64_t offset, std::span<const std::byte> bytes, Durable durable) override;
    [[nodiscard]] base::Task<std::expected<void, DiskError>>
    read(std::uint64_t offset, std::span<std::byte> bytes) override;
    [[nodiscard]] base::Task<std::expected<void, DiskError>> flush() override;

    /// From the file itself, at any place and length. What the device does not give back is zeros.
    /// Returns whether it gave back everything.
    bool read_file(std::uint64_t offset, std::span<std::byte> bytes) const;

private:
    using Block = std::array<std::byte, block_bytes>;
    PoolFile(std::string path, int descriptor, std::uint64_t bytes) noexcept
        : path_(std::move(path)), descriptor_(descriptor), bytes_(bytes) {}

    std::string path_;
    int descriptor_;
    std::uint64_t bytes_;
    std::unordered_map<std::uint64_t, std::unique_ptr<Block>> written_; // by block number
};

/// A file that is written whole and then synced: the target of an upgrade.
class NewPoolFile final : public Disk {
public:
    /// \pre  nothing is at `path`, or an upgrade that was cut short: it is begun anew
    [[nodiscard]] static std::expected<std::unique_ptr<NewPoolFile>, std::string>
    create(const std::string& path, std::uint64_t bytes);
    ~NewPoolFile() override;

    [[nodiscard]] std::uint64_t size_bytes() const noexcept override { return bytes_; }
    [[nodiscard]] base::Task<std::expected<void, DiskError>>
    write(std::uint64_t offset, std::span<const std::byte> bytes, Durable durable) override;
    [[nodiscard]] base::Task<std::expected<void, DiskError>>
    read(std::uint64_t offset, std::span<std::byte> bytes) override;
    [[nodiscard]] base::Task<std::expected<void, DiskError>> flush() override;

private:
    NewPoolFile(int descriptor, std::uint64_t bytes) noexcept
        : descriptor_(descriptor), bytes_(bytes) {}
    int descriptor_;
    std::uint64_t bytes_;
};

/// Makes a folder's names lasting.
[[nodiscard]] std::expected<void, std::string> sync_folder_of(const std::string& path);

} // namespace queue::tool
