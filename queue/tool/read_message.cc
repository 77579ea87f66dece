#include "queue/tool/read_message.h"

#include "queue/disk/crc32c.h"

#include <algorithm>

namespace queue::tool {
namespace {

void append(std::string& to, std::span<const std::byte> bytes) {
    to.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

} // namespace

MessageSource::MessageSource(const PoolFile& pool, const Superblock& superblock, Unlock& unlock)
    : pool_(pool), unlock_(unlock), seed_(pool_seed(superblock.pool, superblock.shard)),
      geometry_(superblock.segment_bytes, superblock.segment_count) {}

std::optional<std::vector<std::byte>>
MessageSource::payload(MessageId id, const StoredRecord& record, bool even_damaged) {
    const std::uint32_t bytes = record_bytes(record.payload_bytes, record.encrypted);
    const std::uint32_t room = geometry_.bytes_of(record.place.slot);
    if (record.place.offset > room || bytes > room - record.place.offset) return std::nullopt;
    std::vector<std::byte> whole(bytes);
    const bool readable =
        pool_.read_file(geometry_.begin_of(record.place.slot) + record.place.offset, whole);
    if (!readable && !even_damaged) return std::nullopt;
    const RecordSeeds seeds = record_seeds(seed_, record.segment_seq, record.place.offset);
    const auto header = decode_record_header(whole, whole.size(), seeds);
    if (!header || header->id != id || header->payload_bytes != record.payload_bytes ||
        header->type != static_cast<std::uint16_t>(record.type)) {
        return std::nullopt;
    }
    whole.resize(record_header_bytes + header->stored_bytes());
    whole.erase(whole.begin(), whole.begin() + record_header_bytes);
    if (!even_damaged && !payload_valid(*header, whole, seeds)) return std::nullopt;
    const auto opened =
        unlock_.open(record.place.slot, record.segment_seq, record.place.offset, *header, whole);
    if (!opened) return std::nullopt;
    whole.resize(opened->size());
    return whole;
}

std::vector<const StoredChunk*> MessageSource::newest_chunks(const StoredMessage& message,
                                                             std::uint32_t count) {
    // A count that nothing backs must not make us reserve memory for it.
    std::vector<const StoredChunk*> chunks(std::min<std::size_t>(count, message.chunks.size()),
                                           nullptr);
    for (const StoredChunk& chunk : message.chunks) {
        if (chunk.prefix.index >= chunks.size()) continue;
        const StoredChunk*& kept = chunks[chunk.prefix.index];
        if (kept == nullptr || kept->record.lsn < chunk.record.lsn) kept = &chunk;
    }
    return chunks;
}

ReadMessage MessageSource::read(MessageId id, const StoredMessage& message, bool content) {
    ReadMessage result;
    if (!message.record) {
        result.problem = "its envelope is not there";
        return result;
    }
    const StoredRecord& record = *message.record;
    const auto bytes = payload(id, record, record.damaged);
    if (!bytes) {
        result.problem = record.encrypted && !unlock_.has_keys()
                             ? "it is encrypted, and there is no key: give one with --key"
                             : "its record cannot be read";
        return result;
    }
    const std::span<const std::byte> all{*bytes};
    const auto prefix = decode_message_prefix(record.type, all);
    if (!prefix) {
        result.problem = "its record contradicts itself";
        return result;
    }
    result.prefix = *prefix;
    const auto envelope = all.subspan(message_prefix_bytes, prefix->envelope_bytes);
    // A damaged record's envelope has a checksum of its own, from version 2 on.
    const bool envelope_checks = !record.damaged || (prefix->envelope_crc != 0 &&
                                                     crc32c(0, envelope) == prefix->envelope_crc);
    result.envelope_good =
        envelope_checks && decode_envelope(envelope, result.envelope).has_value();
    if (!result.envelope_good) result.problem = "its envelope is damaged";

    std::uint64_t have = all.size() - message_prefix_bytes - prefix->envelope_bytes;
    if (content) append(result.content, all.subspan(message_prefix_bytes + prefix->envelope_bytes));
    bool whole = !record.damaged;
    if (record.type == RecordType::message_commit) {
        const auto chunks = newest_chunks(message, prefix->chunk_count);
        if (chunks.size() != prefix->chunk_count) whole = false;
        for (const StoredChunk* chunk : chunks) {
            const auto part = chunk != nullptr ? payload(id, chunk->record) : std::nullopt;
            if (!part) {
                whole = false;
                continue;
            }
            have += part->size() - chunk_prefix_bytes;
            if (content) append(result.content, std::span{*part}.subspan(chunk_prefix_bytes));
        }
    }
    result.content_good = whole && have == prefix->content_bytes;
    if (!result.content_good && result.problem.empty())
        result.problem = "its content is damaged or incomplete";
    return result;
}

} // namespace queue::tool
