#include "queue/rotation.h"

namespace queue {

void KeyRotation::add(std::uint32_t slot, std::uint64_t segment_seq) {
    if (!keys_->encrypts()) return; // they are all on their way out
    left_.push_back({slot, segment_seq});
}

void KeyRotation::start() {
    if (left_.empty()) return;
    task_ = run();
    task_.start();
}

base::Task<void> KeyRotation::run() {
    while (!left_.empty() && !log_.read_only()) {
        const Segment segment = left_.front();
        const bool wrapped = co_await wrap_again(segment);
        if (!wrapped) co_return;
        left_.pop_front();
    }
}

/// Also one that is free: after a crash it may be looked at once more, and must not need the old key then.
bool KeyRotation::there(Segment segment) const noexcept {
    return log_.segments().holds(segment.slot, segment.seq);
}

base::Task<bool> KeyRotation::wrap_again(Segment segment) {
    if (!there(segment)) co_return true;
    // No other generation begins in the slot under the write.
    log_.segments().write_begun(segment.slot);
    const bool written = co_await write_header(segment);
    log_.segments().write_ended(segment.slot);
    log_.look_again();
    co_return written;
}

base::Task<bool> KeyRotation::write_header(Segment segment) {
    const std::uint64_t begin = log_.segments().begin_of(segment.slot);
    const BlockMemory memory{segment_header_bytes};
    std::optional<SegmentHeader> header;
    for (unsigned half = 0; half < disk_.copies() && !header; ++half) { // of a mirror
        auto read = co_await disk_.read_copy(half, begin, memory.span());
        if (!read) continue;
        for (std::uint32_t copy = 0; copy < segment_header_copies; ++copy) {
            auto found = decode_segment_header(
                memory.span().subspan(copy * block_bytes).first<block_bytes>(), copy);
            if (found && found->segment_seq == segment.seq && found->slot == segment.slot)
                header = *found;
        }
    }
    if (!header) co_return false;
    if (!header->key) co_return true;
    const auto key = keys_->unwrap(*header->key, header->pool, header->shard, header->segment_seq);
    if (!key) co_return true; // lost, and given up
    header->key = keys_->wrap(*key, header->pool, header->shard, header->segment_seq);
    for (std::uint32_t copy = 0; copy < segment_header_copies; ++copy) {
        const std::span<std::byte> block = memory.span().subspan(copy * block_bytes, block_bytes);
        encode_segment_header(block.first<block_bytes>(), *header, copy);
        auto written = co_await disk_.write(begin + copy * block_bytes, block, Durable::yes);
        if (!written) co_return false;
    }
    co_return true;
}

} // namespace queue
