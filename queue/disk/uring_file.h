// uring_file.h: a spool pool in a file, read and written through the shard's io_uring.
//
// Scope      Creates the file once, zero-written for real so that later writes are pure overwrites,
//            then reads and writes it with O_DIRECT; Durable::yes is RWF_DSYNC. Its size never changes.
// Owns       The descriptor, an exclusive lock on it, and the operations in flight.
// Threading  open(): start-up, may block for as long as writing the pool takes. The rest: the ring's
//            thread; never blocks.
// Failure    open(): UringFileError with text for the operator. Operations: DiskError.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/uring.h"
#include "dataplane/base/wait.h"
#include "queue/disk/disk.h"
#include "queue/disk/flush_coordinator.h"
#include "queue/disk/pool_checks.h"

#include <chrono>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace queue {

struct UringFileError {
    enum class Kind : std::uint8_t {
        unsuitable, // the file system cannot do what a spool needs
        no_space,
        locked, // another process has it
        io,     // everything else: permissions, a missing folder, a device error
    };
    Kind kind = Kind::io;
    std::string text;
};

struct UringFileOptions {
    std::uint64_t pool_bytes = 1ULL << 30; // when the pool must be created; a multiple of 1 MiB
    /// Called while a pool is being created, after each MiB or so.
    std::function<void(std::uint64_t bytes_done, std::uint64_t bytes_total)> progress;
    // How long to wait for the lock. A process that was killed keeps it until the kernel has ended the writes
    // that its ring had in flight, which can be after its parent saw it die; and until then nothing here
    // may read the pool.
    std::chrono::milliseconds lock_wait{10'000};
};

// How a write becomes durable: one by one (RWF_DSYNC), or all that landed by one flush (flush_disk.h).
enum class CommitStrategy : std::uint8_t { dsync, flush };

class UringFile final : public Disk {
public:
    /// Opens the pool at `path`, or creates it. One that exists keeps its size: compare size_bytes().
    [[nodiscard]] static std::expected<std::unique_ptr<UringFile>, UringFileError>
    open(base::Loop& loop, base::Uring& ring, const std::string& path,
         const UringFileOptions& options);
    ~UringFile() override;

    [[nodiscard]] bool created() const noexcept { return created_; }
    /// What the file system says against it; nothing, or a reason for CommitStrategy::flush.
    [[nodiscard]] const PoolJudgement& judgement() const noexcept { return judgement_; }
    [[nodiscard]] int descriptor() const noexcept { return descriptor_; }
    /// From now on flush() asks `coordinator`, one at a time (FlushDisk), and not the kernel for itself.
    void flush_through(FlushCoordinator& coordinator) {
        flusher_ = coordinator.attach(loop_, ring_, descriptor_);
    }
    [[nodiscard]] std::uint64_t size_bytes() const noexcept override { return bytes_; }
    // Destroying one of these tasks early waits for the kernel to let go of the memory.
    [[nodiscard]] base::Task<std::expected<void, DiskError>>
    write(std::uint64_t offset, std::span<const std::byte> bytes, Durable durable) override;
    [[nodiscard]] base::Task<std::expected<void, DiskError>>
    read(std::uint64_t offset, std::span<std::byte> bytes) override;
    [[nodiscard]] base::Task<std::expected<void, DiskError>> flush() override;

private:
    class Operation;

    UringFile(base::Loop& loop, base::Uring& ring, int descriptor, std::uint64_t bytes,
              bool created, PoolJudgement judgement) noexcept
        : loop_(loop), ring_(ring), descriptor_(descriptor), bytes_(bytes), created_(created),
          judgement_(std::move(judgement)) {}

    base::Loop& loop_;
    base::Uring& ring_;
    int descriptor_;
    std::uint64_t bytes_;
    bool created_;
    PoolJudgement judgement_;
    std::unique_ptr<FlushCoordinator::Port> flusher_; // strategy B
};

} // namespace queue
