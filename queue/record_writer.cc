#include "queue/log.h"

#include "dataplane/base/check.h"
#include "queue/disk/crc32c.h"

#include <algorithm>

namespace queue {

RecordWriter::RecordWriter(Log& log, Batch& batch, const RecordHeader& header) noexcept
    : log_(log), batch_(batch), header_(header),
      seeds_(record_seeds(log.seed_, batch.segment_seq, batch.offset + batch.used)),
      at_(batch.used + record_header_bytes), crc_(seeds_.payload) {
    if (header_.encrypted())
        log_.cipher_.begin_seal(
            {*batch.key, batch.segment_seq, batch.offset + batch.used, header_});
}

void RecordWriter::append(std::span<const std::byte> part) noexcept {
    const std::span<std::byte> to = next(static_cast<std::uint32_t>(part.size()));
    if (header_.encrypted()) {
        log_.cipher_.seal(part, to.data());
        crc_ = crc32c(crc_, to);
    } else {
        crc_ = crc32c_copy(crc_, to.data(), part);
    }
    at_ += static_cast<std::uint32_t>(part.size());
}

std::span<std::byte> RecordWriter::next(std::uint32_t bytes) noexcept {
    const std::uint32_t end = batch_.used + record_header_bytes + header_.payload_bytes;
    CHECK(at_ + bytes <= end);
    return batch_.memory.span().subspan(at_, bytes);
}

void RecordWriter::filled(std::span<std::byte> part) noexcept {
    if (header_.encrypted()) log_.cipher_.seal(part, part.data());
    crc_ = crc32c(crc_, part);
    at_ += static_cast<std::uint32_t>(part.size());
}

void RecordWriter::finish(Ticket* ticket) noexcept {
    CHECK(&batch_ == log_.open_);
    CHECK(at_ == batch_.used + record_header_bytes + header_.payload_bytes);
    const std::uint32_t bytes = record_bytes(header_);
    const std::span<std::byte> record = batch_.memory.span().subspan(batch_.used, bytes);
    if (header_.encrypted()) {
        const auto tag =
            record.subspan(record_header_bytes + header_.payload_bytes).first<record_tag_bytes>();
        log_.cipher_.end_seal(tag);
        crc_ = crc32c(crc_, tag);
    }
    std::ranges::fill(record.subspan(record_header_bytes + header_.stored_bytes()), std::byte{0});
    header_.payload_crc = crc_;
    encode_record_header(record.first<record_header_bytes>(), header_, seeds_);
    if (ticket != nullptr) log_.add_ticket(*ticket, bytes);
    if (header_.type != static_cast<std::uint16_t>(RecordType::watermark)) batch_.filled = true;
    if (batch_.records == 0) batch_.first_lsn = header_.lsn;
    batch_.used += bytes;
    ++batch_.records;
    log_.loop_.at_turn_end(log_.turn_end_);
}

} // namespace queue
