#include "queue/disk/mirror_operation.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace queue {

MirrorOperations::Handle MirrorOperations::write(Disks disks, std::uint64_t offset,
                                                 std::span<const std::byte> bytes,
                                                 Durable durable) {
    MirrorOperation& operation = take(disks, bytes.size());
    const std::span<std::byte> copy = operation.memory_.span().first(bytes.size());
    std::memcpy(copy.data(), bytes.data(), bytes.size());
    for (unsigned side = 0; side < 2; ++side) {
        if (disks[side] == nullptr) continue;
        operation.halves_[side].bytes = copy; // the same for both
        operation.halves_[side].task = write_half(&operation, side, disks[side], offset, durable);
    }
    start(operation);
    return {*this, operation};
}

MirrorOperations::Handle MirrorOperations::read(Disks disks, std::uint64_t offset,
                                                std::size_t bytes) {
    const bool both = disks[0] != nullptr && disks[1] != nullptr;
    MirrorOperation& operation = take(disks, both ? 2 * bytes : bytes);
    for (unsigned side = 0; side < 2; ++side) {
        if (disks[side] == nullptr) continue;
        operation.halves_[side].bytes =
            operation.memory_.span().subspan(both ? side * bytes : 0, bytes);
        operation.halves_[side].task = read_half(&operation, side, disks[side], offset);
    }
    start(operation);
    return {*this, operation};
}

MirrorOperations::Handle MirrorOperations::flush(Disks disks) {
    MirrorOperation& operation = take(disks, 0);
    for (unsigned side = 0; side < 2; ++side) {
        if (disks[side] == nullptr) continue;
        operation.halves_[side].task = flush_half(&operation, side, disks[side]);
    }
    start(operation);
    return {*this, operation};
}

/// The smallest of the spare ones that is large enough, else a new one.
MirrorOperation& MirrorOperations::take(Disks disks, std::size_t bytes) {
    auto best = spare_.end();
    std::size_t spare_bytes = 0;
    for (auto at = spare_.begin(); at != spare_.end(); ++at) {
        spare_bytes += at->memory_.bytes;
        if (at->memory_.bytes < bytes) continue;
        if (best == spare_.end() || at->memory_.bytes <= best->memory_.bytes) best = at;
    }
    if (best == spare_.end()) {
        best = spare_.emplace(spare_.end());
        if (bytes != 0) best->memory_ = BlockMemory{std::bit_ceil(bytes)};
    } else {
        spare_bytes -= best->memory_.bytes;
    }
    under_way_.splice(under_way_.end(), spare_, best);
    while (spare_.size() > spare_count_max || spare_bytes > spare_bytes_max) {
        spare_bytes -= spare_.front().memory_.bytes;
        spare_.pop_front();
    }
    best->self_ = best;
    best->awaited_ = true;
    best->overdue_ = false;
    for (unsigned side = 0; side < 2; ++side) {
        MirrorOperation::Half& half = best->halves_[side];
        half.asked = half.open = disks[side] != nullptr;
        half.result = {};
        half.bytes = {};
    }
    return *best;
}

void MirrorOperations::start(MirrorOperation& operation) {
    for (MirrorOperation::Half& half : operation.halves_) {
        if (half.open) half.task.start();
    }
}

base::Task<void> MirrorOperations::write_half(MirrorOperation* operation, unsigned side, Disk* disk,
                                              std::uint64_t offset, Durable durable) {
    auto result = co_await disk->write(offset, operation->halves_[side].bytes, durable);
    ended(operation, side, result);
}

base::Task<void> MirrorOperations::read_half(MirrorOperation* operation, unsigned side, Disk* disk,
                                             std::uint64_t offset) {
    auto result = co_await disk->read(offset, operation->halves_[side].bytes);
    ended(operation, side, result);
}

base::Task<void> MirrorOperations::flush_half(MirrorOperation* operation, unsigned side,
                                              Disk* disk) {
    auto result = co_await disk->flush();
    ended(operation, side, result);
}

/// The last that a half's task does. Its frame goes when the operation is used again, not here.
void MirrorOperations::ended(MirrorOperation* operation, unsigned side,
                             const MirrorOperation::Result& result) {
    operation->halves_[side].open = false;
    operation->halves_[side].result = result;
    operation->changed.wake_all();
    returned.wake_all();
    if (!operation->awaited_ && !operation->open()) retire(*operation);
}

void MirrorOperations::let_go(MirrorOperation& operation) noexcept {
    operation.awaited_ = false;
    if (!operation.open()) retire(operation);
}

void MirrorOperations::retire(MirrorOperation& operation) noexcept {
    spare_.splice(spare_.end(), under_way_, operation.self_);
}

bool MirrorOperations::busy(unsigned side) const noexcept {
    return std::ranges::any_of(
        under_way_, [&](const MirrorOperation& operation) { return operation.open(side); });
}

bool MirrorOperations::late(unsigned side) const noexcept {
    return std::ranges::any_of(under_way_, [&](const MirrorOperation& operation) {
        return operation.open(side) && operation.overdue_;
    });
}

void MirrorOperations::wake_all() noexcept {
    for (MirrorOperation& operation : under_way_)
        operation.changed.wake_all();
}

std::size_t MirrorOperations::memory_bytes() const noexcept {
    std::size_t bytes = 0;
    for (const auto* list : {&under_way_, &spare_})
        for (const MirrorOperation& operation : *list)
            bytes += operation.memory_.bytes;
    return bytes;
}

} // namespace queue
