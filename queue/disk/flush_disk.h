// flush_disk.h: durable writes on a device whose cache is volatile and whose flush is cheaper than FUA: strategy B.
//
// Scope      A Disk in front of another. A durable write becomes a plain one and a place in the next flush
//            epoch: one flush covers every write that had landed when it began. Two flushes are never
//            under way at a time, so while one lasts the next one's company gathers.
// Owns       The flush under way.
// Threading  Bound to one shard. What `below` does with flush() may be shared by all (flush_coordinator.h).
// Failure    A flush that fails fails every write since the last good one, also those that wait for the
//            next: after a failed flush nobody knows what the device has dropped. Nothing is flushed again
//            on their behalf; whoever wrote them writes elsewhere.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/wait.h"
#include "queue/disk/disk.h"

#include <cstdint>

namespace queue {

class FlushDisk final : public Disk {
public:
    FlushDisk(base::Loop& loop, Disk& below) noexcept : loop_(loop), below_(below) {}

    [[nodiscard]] std::uint64_t size_bytes() const noexcept override { return below_.size_bytes(); }
    [[nodiscard]] base::Task<std::expected<void, DiskError>>
    write(std::uint64_t offset, std::span<const std::byte> bytes, Durable durable) override;
    [[nodiscard]] base::Task<std::expected<void, DiskError>>
    read(std::uint64_t offset, std::span<std::byte> bytes) override {
        return below_.read(offset, bytes);
    }
    [[nodiscard]] base::Task<std::expected<void, DiskError>> flush() override;
    [[nodiscard]] std::uint64_t flush_count() const noexcept { return begun_; }

private:
    [[nodiscard]] base::Task<std::expected<void, DiskError>>
    join_epoch(std::uint64_t failures_before);
    [[nodiscard]] base::Task<void> run();

    base::Loop& loop_;
    Disk& below_;
    std::uint64_t begun_ = 0;  // flushes; the number of the one under way or of the last
    std::uint64_t wanted_ = 0; // somebody waits for this one
    std::uint64_t good_ = 0;   // the last that succeeded
    std::uint64_t failures_ = 0;
    DiskError error_ = DiskError::io; // of the last failure
    bool flushing_ = false;
    base::Task<void> task_;
    base::WaitQueue ended_{"spool flush"};
};

} // namespace queue
