// content_reader.cc: a message's content, from memory or record by record from the disk.
#include "queue/core.h"

namespace queue {

ContentReader::ContentReader(MessageQueue& queue, MessageRef message) noexcept
    : core_(queue.core_.get()), message_(std::move(message)) {}

std::uint64_t ContentReader::bytes_left() const noexcept {
    return message_->content_bytes - offset_;
}

bool ContentReader::resident() const noexcept {
    return bytes_left() == 0 || (offset_ == 0 && !message_->content.empty());
}

base::Task<SpoolResult<base::SlabChain>> ContentReader::next(base::Deadline deadline) {
    const Message& message = *message_;
    if (bytes_left() == 0) co_return base::SlabChain{};
    if (resident()) {
        offset_ = message.content_bytes;
        co_return message.content.share();
    }
    for (;;) {
        if (message.entry_ == no_entry) co_return std::unexpected(SpoolError::cancelled);
        const MessageIndex& index = core_->index_;
        // Which record, and which part of it, holds the byte at offset_.
        const std::span<const Chunk> chunks = index.chunks(index[message.entry_]);
        Place place = index[message.entry_].place;
        std::uint32_t payload_bytes = message.payload_bytes_;
        std::uint32_t from = message.content_at_;
        auto bytes = static_cast<std::uint32_t>(message.payload_bytes_ - message.content_at_);
        std::uint64_t begin = 0;
        std::size_t chunk = 0;
        for (; chunk < chunks.size() && offset_ >= begin + bytes; ++chunk) {
            begin += bytes;
            place = chunks[chunk].place;
            bytes = chunks[chunk].bytes;
            from = chunk_prefix_bytes;
            payload_bytes = chunk_prefix_bytes + bytes;
        }
        CHECK(offset_ == begin);
        auto piece =
            co_await core_->reader_.read(message.id, place, payload_bytes, from, bytes, deadline);
        if (message.entry_ == no_entry) co_return std::unexpected(SpoolError::cancelled);
        const Entry& entry = index[message.entry_];
        const Place now = chunk == 0 ? entry.place : index.chunks(entry)[chunk - 1].place;
        if (now != place)
            continue; // the collector moved it under our hands, and the place may be another's now
        if (!piece) {
            if (piece.error() == SpoolError::damaged || piece.error() == SpoolError::forged)
                core_->damaged(message.id, place, payload_bytes, "delivery");
            co_return std::unexpected(piece.error());
        }
        offset_ += bytes;
        co_return std::move(*piece);
    }
}

} // namespace queue
