#include "queue/live_records.h"

#include "dataplane/base/wait.h"
#include "queue/codec.h"
#include "queue/limits.h"

#include <algorithm>
#include <chrono>

namespace queue {

base::Task<std::vector<LiveRecord>> find_live_records(base::Loop& loop, const MessageIndex& index,
                                                      std::vector<std::uint32_t> slots) {
    std::vector<LiveRecord> found;
    const auto wanted = [&](Place place) {
        return std::ranges::find(slots, place.slot) != slots.end();
    };
    for (EntryRef ref = 0; ref < index.slot_count();) {
        const EntryRef end = std::min<EntryRef>(
            index.slot_count(), ref + static_cast<EntryRef>(index_slots_per_turn_max));
        for (; ref < end; ++ref) {
            const Entry& entry = index[ref];
            if (entry.id.value == 0) continue;
            if (wanted(entry.place)) {
                found.push_back(
                    {entry.id, ref, entry.place, entry.payload_bytes, LiveRecord::whole_message});
            }
            const std::span<const Chunk> chunks = index.chunks(entry);
            for (std::size_t i = 0; i < chunks.size(); ++i) {
                if (!wanted(chunks[i].place)) continue;
                found.push_back(
                    {entry.id, ref, chunks[i].place, chunk_prefix_bytes + chunks[i].bytes, i});
            }
        }
        static_cast<void>(co_await base::sleep_for(loop, std::chrono::milliseconds{1}));
    }
    co_return found;
}

Place& place_of(MessageIndex& index, const LiveRecord& record) noexcept {
    Entry& entry = index[record.entry];
    return record.chunk == LiveRecord::whole_message ? entry.place
                                                     : index.chunks(entry)[record.chunk].place;
}

bool alive(MessageIndex& index, const LiveRecord& record) noexcept {
    // An id is never used twice, so the slot cannot have become another message of the same name.
    return index[record.entry].id == record.id && place_of(index, record) == record.place;
}

std::uint32_t end_of(const Log& log, const LiveRecord& record) noexcept {
    return record.place.offset +
           log.segments().record_bytes_in(record.place.slot, record.payload_bytes);
}

bool checks_out(const Log& log, const LiveRecord& record,
                std::span<const std::byte> bytes) noexcept {
    const RecordSeeds seeds =
        record_seeds(log.seed(), log.segments().seq_of(record.place.slot), record.place.offset);
    auto header = decode_record_header(bytes, bytes.size(), seeds);
    return header && header->payload_bytes == record.payload_bytes && header->id == record.id &&
           payload_valid(*header, bytes.subspan(record_header_bytes, header->stored_bytes()),
                         seeds);
}

base::Task<bool> read_other_copy(const Log& log, Disk& disk, LiveRecord record,
                                 std::span<std::byte> bytes) {
    const std::uint32_t skew = record.place.offset % block_bytes;
    BlockMemory memory;
    // With one left it may be the other one by now: the half that was read first is left behind.
    for (unsigned copy = disk.copies() > 1 ? 1 : 0; copy < disk.copies(); ++copy) {
        if (memory.bytes == 0) {
            memory =
                BlockMemory{(skew + bytes.size() + block_bytes - 1) / block_bytes * block_bytes};
        }
        auto read = co_await disk.read_copy(
            copy, log.segments().begin_of(record.place.slot) + record.place.offset - skew,
            memory.span());
        const std::span<const std::byte> found = memory.span().subspan(skew, bytes.size());
        if (!read || !checks_out(log, record, found)) continue;
        std::ranges::copy(found, bytes.begin());
        co_return true;
    }
    co_return false;
}

} // namespace queue
