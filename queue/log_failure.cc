// log_failure.cc: what becomes of a batch that was refused, and of one whose segment went bad before it was written.
#include "queue/log.h"

#include "dataplane/base/check.h"
#include "queue/disk/crc32c.h"
#include "queue/seeded_defect.h"

#include <algorithm>

namespace queue {

bool Log::find_home(Batch& batch) {
    if (!segment_for(whole_blocks(batch.used))) return false;
    const std::uint32_t old_offset = batch.offset;
    const std::uint64_t old_seq = batch.segment_seq;
    const std::optional<DataKey> old_key = batch.key;
    for (Ticket* ticket : batch.tickets) {
        if (ticket == nullptr) continue;
        segments_.drop_live(ticket->place_.slot, ticket->bytes_);
        segments_.unpend(ticket->place_.slot);
        ticket->place_ = {current_.slot,
                          ticket->place_.offset - old_offset + current_.write_offset};
        segments_.add_live(ticket->place_.slot, ticket->bytes_);
        segments_.pend(ticket->place_.slot);
    }
    batch.slot = current_.slot;
    batch.segment_seq = segments_.seq_of(current_.slot);
    batch.key = segments_.key_of(current_.slot);
    batch.offset = current_.write_offset;
    batch.capacity = capacity_for(whole_blocks(batch.used));
    batch.homeless = false;
    stamp_anew(batch, old_seq, old_offset, old_key);
    return true;
}

/// Checksums and encryption name the place.
void Log::stamp_anew(Batch& batch, std::uint64_t old_seq, std::uint32_t old_offset,
                     const std::optional<DataKey>& old_key) noexcept {
    const std::uint64_t seq = batch.segment_seq;
    const std::span<std::byte> bytes = batch.memory.span().first(batch.used);
    for (std::uint32_t at = frame_header_bytes; at < batch.used;) {
        const std::span<std::byte> record = bytes.subspan(at);
        auto header = decode_record_header(record, record.size(),
                                           record_seeds(seed_, old_seq, old_offset + at));
        CHECK(header.has_value()); // our own bytes, in our own memory
        const std::span<std::byte> stored =
            record.subspan(record_header_bytes, header->stored_bytes());
        if (header->encrypted()) {
            CHECK(cipher_.open_record({*old_key, old_seq, old_offset + at, *header}, stored));
            cipher_.seal_record({*batch.key, seq, batch.offset + at, *header}, stored);
        }
        const RecordSeeds seeds = record_seeds(seed_, seq, batch.offset + at);
        header->payload_crc = crc32c(seeds.payload, stored);
        encode_record_header(record.first<record_header_bytes>(), *header, seeds);
        at += record_bytes(*header);
    }
}

void Log::failed(Batch& batch) {
    segments_.mark_bad(batch.slot);
    const bool was_current = current_.slot == batch.slot && !segments_.sealed(batch.slot);
    if (was_current) end_current();
    for (Failure& failure : failures_unreported_) {
        if (failure.reported_in == &batch) failure.reported_in = nullptr;
    }
    failures_unreported_.push_back({batch.seq, nullptr});
    batch.state = Batch::State::salvaging;
    batch.salvaged = SEEDED_DEFECT(forget_salvage) ? batch.used : frame_header_bytes;
    settle_tickets(batch, SEEDED_DEFECT(swallow_store_error) ? Ticket::State::durable
                                                             : Ticket::State::failed);
    count_failure(batch.failures_before);
    const bool stuck = std::ranges::all_of(
        batches_, [](const Batch& one) { return one.state == Batch::State::salvaging; });
    if (stuck) end_writing(); // no buffer is left to mend with
}

void Log::count_failure(std::uint64_t failures_before) noexcept {
    ++counters_.write_errors;
    ++failure_count_;
    if (failures_before != device_failures_) return; // one has failed since this one began
    ++device_failures_;
    if (++failures_in_a_row_ >= failures_in_a_row_max) end_writing();
}

void Log::end_writing() noexcept {
    read_only_ = true;
    lazy_timer_.cancel();
    watermark_timer_.cancel();
    hold_timer_.cancel();
    for (Batch& batch : batches_) {
        if (batch.state == Batch::State::writing) continue; // the device will say
        batch.state = Batch::State::free;
        settle_tickets(batch, Ticket::State::failed);
    }
    open_ = nullptr;
}

void Log::salvage(Batch& batch) {
    const std::span<const std::byte> bytes = batch.memory.span().first(batch.used);
    const std::uint64_t seq = batch.segment_seq;
    while (batch.salvaged < batch.used) {
        const std::span<const std::byte> record = bytes.subspan(batch.salvaged);
        auto header = decode_record_header(record, record.size(),
                                           record_seeds(seed_, seq, batch.offset + batch.salvaged));
        CHECK(header.has_value()); // our own bytes, in our own memory
        const auto type = static_cast<RecordType>(header->type);
        // What a client or the collector waits for has failed with its ticket.
        if (type == RecordType::status || type == RecordType::tomb || type == RecordType::abort) {
            const Room room = make_room(header->payload_bytes, AppendClass::essential);
            if (room != Room::now) return;
            const auto stored = record.subspan(record_header_bytes, header->stored_bytes());
            plain_.assign(stored.begin(), stored.end());
            if (header->encrypted()) {
                CHECK(cipher_.open_record({*batch.key, seq, batch.offset + batch.salvaged, *header},
                                          plain_));
            }
            RecordWriter writer = begin(type, header->id, header->payload_bytes, header->lsn);
            writer.append(std::span<const std::byte>{plain_}.first(header->payload_bytes));
            writer.finish(nullptr);
        }
        batch.salvaged += record_bytes(*header);
    }
    batch.state = Batch::State::free;
    segments_.free_behind(last_batch_seq());
    wake();
}

void Log::report_failures() {
    for (Failure& failure : failures_unreported_) {
        if (failure.reported_in != nullptr) continue;
        if (make_room(batch_failed_bytes, AppendClass::essential) != Room::now) return;
        RecordWriter writer = begin(RecordType::batch_failed, MessageId{}, batch_failed_bytes);
        writer.encode(batch_failed_bytes, [&](std::span<std::byte> bytes) {
            encode_batch_failed(bytes.first<batch_failed_bytes>(),
                                {superblock_.epoch, failure.batch_seq});
        });
        writer.finish(nullptr);
        failure.reported_in = open_;
    }
}

} // namespace queue
