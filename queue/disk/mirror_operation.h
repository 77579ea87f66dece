// mirror_operation.h: operations on the halves of a mirror, which may outlast whoever asked for them.
//
// Scope      A write, a read or a flush of one half or of both, in memory of its own: a device that hangs is at that
//            memory for as long as it likes, and the caller goes on with his. How long a half is waited for, and
//            what it means when it does not answer, is mirror_disk.h's business.
// Owns       The operations under way with their memory, and some that have ended, to be used again. A late one
//            keeps its memory until the device has let go of it.
// Threading  Bound to one shard.
// Failure    None of its own. Destroying one that is under way may wait for its device: UringFile's do.
#pragma once

#include "dataplane/base/wait.h"
#include "queue/disk/block_memory.h"
#include "queue/disk/disk.h"

#include <array>
#include <list>
#include <span>
#include <utility>

namespace queue {

class MirrorOperation {
public:
    using Result = std::expected<void, DiskError>;

    [[nodiscard]] bool asked(unsigned side) const noexcept { return halves_[side].asked; }
    [[nodiscard]] bool open(unsigned side) const noexcept { return halves_[side].open; }
    [[nodiscard]] bool open() const noexcept { return open(0) || open(1); }
    [[nodiscard]] bool took(unsigned side) const noexcept {
        return asked(side) && !open(side) && halves_[side].result.has_value();
    }
    /// It has taken longer than anybody waits.
    void give_up() noexcept { overdue_ = true; }
    /// What it answered; of one that has not: timed_out.
    [[nodiscard]] Result result(unsigned side) const noexcept {
        return open(side) ? std::unexpected(DiskError::timed_out) : halves_[side].result;
    }
    /// What a read of this half gave.
    [[nodiscard]] std::span<const std::byte> bytes(unsigned side) const noexcept {
        return halves_[side].bytes;
    }

    base::WaitQueue changed{"spool mirror operation"}; // a half has answered, or counts otherwise

private:
    friend class MirrorOperations;
    struct Half {
        bool asked = false;
        bool open = false; // has not answered
        Result result;
        std::span<std::byte> bytes;
        base::Task<void> task;
    };
    std::array<Half, 2> halves_;
    BlockMemory memory_;
    bool awaited_ = false;
    bool overdue_ = false;
    std::list<MirrorOperation>::iterator self_;
};

class MirrorOperations {
public:
    using Disks = std::array<Disk*, 2>; // null: is not asked

    /// Whoever waits for an operation. Without him it goes on by itself.
    class Handle {
    public:
        Handle() = default;
        Handle(Handle&& other) noexcept
            : owner_(other.owner_), operation_(std::exchange(other.operation_, nullptr)) {}
        Handle& operator=(Handle&&) = delete;
        ~Handle() {
            if (operation_ != nullptr) owner_->let_go(*operation_);
        }
        [[nodiscard]] MirrorOperation* operator->() const noexcept { return operation_; }
        [[nodiscard]] MirrorOperation* get() const noexcept { return operation_; }

    private:
        friend class MirrorOperations;
        Handle(MirrorOperations& owner, MirrorOperation& operation) noexcept
            : owner_(&owner), operation_(&operation) {}
        MirrorOperations* owner_ = nullptr;
        MirrorOperation* operation_ = nullptr;
    };

    /// The bytes are copied before it returns.
    [[nodiscard]] Handle write(Disks disks, std::uint64_t offset, std::span<const std::byte> bytes,
                               Durable durable);
    [[nodiscard]] Handle read(Disks disks, std::uint64_t offset, std::size_t bytes);
    [[nodiscard]] Handle flush(Disks disks);

    /// Whether this half has yet to answer to anything.
    [[nodiscard]] bool busy(unsigned side) const noexcept;
    /// Whether this half has yet to answer to something that was given up.
    [[nodiscard]] bool late(unsigned side) const noexcept;
    /// All who wait look again: the halves count otherwise than before.
    void wake_all() noexcept;
    /// Of what is under way, and of what is kept to be used again.
    [[nodiscard]] std::size_t memory_bytes() const noexcept;

    base::WaitQueue returned{"spool mirror half"}; // a half has answered to something

private:
    static constexpr std::size_t spare_count_max = 32;
    static constexpr std::size_t spare_bytes_max = 9U << 20; // what the log has under way at most

    [[nodiscard]] MirrorOperation& take(Disks disks, std::size_t bytes);
    void start(MirrorOperation& operation);
    void ended(MirrorOperation* operation, unsigned side, const MirrorOperation::Result& result);
    void let_go(MirrorOperation& operation) noexcept;
    void retire(MirrorOperation& operation) noexcept;
    [[nodiscard]] base::Task<void> write_half(MirrorOperation* operation, unsigned side, Disk* disk,
                                              std::uint64_t offset, Durable durable);
    [[nodiscard]] base::Task<void> read_half(MirrorOperation* operation, unsigned side, Disk* disk,
                                             std::uint64_t offset);
    [[nodiscard]] base::Task<void> flush_half(MirrorOperation* operation, unsigned side,
                                              Disk* disk);

    std::list<MirrorOperation> under_way_;
    std::list<MirrorOperation> spare_; // the one that was used last comes last
};

} // namespace queue
