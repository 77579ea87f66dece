#include "queue/codec.h"

#include "dataplane/base/check.h"
#include "dataplane/base/slab.h"
#include "queue/disk/crc32c.h"
#include "queue/seeded_defect.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace queue {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are copied as they are");

constexpr std::uint64_t superblock_magic = 0x31304C4F4F50524DULL; // "MRPOOL01"
constexpr std::uint64_t segment_magic = 0x31304D474553524DULL;    // "MRSEGM01"
constexpr std::uint32_t frame_magic = 0x4642524DU;                // "MRBF"
// The first eight bytes of a block are its magic, the next four its checksum over all that follows.
constexpr std::size_t block_crc_at = 8;
constexpr std::size_t block_crc_from = 12;

template <class T>
void put(std::span<std::byte> bytes, std::size_t at, T value) noexcept {
    DCHECK(at + sizeof value <= bytes.size());
    std::memcpy(bytes.data() + at, &value, sizeof value);
}

template <class T>
[[nodiscard]] T get(std::span<const std::byte> bytes, std::size_t at) noexcept {
    DCHECK(at + sizeof(T) <= bytes.size());
    T value;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
}

// SplitMix64's finaliser: every input bit moves every output bit.
constexpr std::uint64_t mix(std::uint64_t value) noexcept {
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ULL;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EBULL;
    return value ^ (value >> 31);
}

constexpr std::uint64_t place_hash(std::uint32_t seed, std::uint64_t segment_seq,
                                   std::uint32_t offset) noexcept {
    return mix(mix(segment_seq + 0x9E3779B97F4A7C15ULL) ^ (std::uint64_t{seed} << 32 | offset));
}

[[nodiscard]] constexpr bool readable(std::uint16_t major) noexcept {
    return major >= format_major_oldest && major <= format_major;
}

void seal_block(std::span<std::byte, block_bytes> block, std::uint32_t copy) noexcept {
    put(block, block_crc_at, crc32c(copy + 1, block.subspan<block_crc_from>()));
}

// Incompatible features: whoever does not know one must keep off.
constexpr std::uint32_t feature_encrypted = 1;

/// Whether the block is encrypted, or says that others are.
[[nodiscard]] std::expected<bool, CodecError>
check_block(std::span<const std::byte, block_bytes> block, std::uint64_t magic,
            std::uint32_t copy) noexcept {
    if (get<std::uint64_t>(block, 0) != magic) return std::unexpected(CodecError::not_ours);
    if (get<std::uint32_t>(block, block_crc_at) !=
        crc32c(copy + 1, block.subspan<block_crc_from>())) {
        return std::unexpected(CodecError::bad_checksum);
    }
    // A later minor version only adds what this one may ignore.
    if (!readable(get<std::uint16_t>(block, 12))) return std::unexpected(CodecError::unsupported);
    const auto features = get<std::uint32_t>(block, 16);
    if ((features & ~feature_encrypted) != 0) return std::unexpected(CodecError::unsupported);
    return (features & feature_encrypted) != 0;
}

void begin_block(std::span<std::byte, block_bytes> block, std::uint64_t magic, const PoolId& pool,
                 std::uint32_t shard, bool encrypted) noexcept {
    std::ranges::fill(block, std::byte{0});
    put(block, 0, magic);
    put(block, 12, format_major);
    put(block, 14, format_minor);
    put(block, 16, encrypted ? feature_encrypted : 0); // incompatible features
    put(block, 20, std::uint32_t{0});                  // compatible features
    std::ranges::copy(pool, block.begin() + 24);
    put(block, 40, shard);
}

} // namespace

std::uint32_t pool_seed(const PoolId& pool, std::uint32_t shard) noexcept {
    return crc32c(shard, pool);
}

void encode_superblock(std::span<std::byte, block_bytes> block, const Superblock& superblock,
                       std::uint32_t copy) noexcept {
    begin_block(block, superblock_magic, superblock.pool, superblock.shard, superblock.encrypted);
    put(block, 44, copy);
    put(block, 48, superblock.generation);
    put(block, 56, superblock.epoch);
    put(block, 60, std::uint32_t{superblock.clean});
    put(block, 64, superblock.pool_bytes);
    put(block, 72, superblock.segment_bytes);
    put(block, 76, superblock.segment_count);
    put(block, 80, superblock.lsn_base);
    put(block, 88, superblock.segment_seq_base);
    put(block, 96, superblock.segment_floor);
    put(block, 104, superblock.checkpoint.segment_seq);
    put(block, 112, superblock.checkpoint.slot);
    put(block, 116, superblock.checkpoint.offset);
    put(block, 120, superblock.checkpoint.payload_bytes);
    put(block, 128, superblock.checkpoint.covered);
    static_assert(sizeof superblock.bad_slots + 2048 == block_bytes);
    std::memcpy(block.data() + 2048, superblock.bad_slots.data(), superblock.bad_slots.size());
    seal_block(block, copy);
}

std::expected<Superblock, CodecError>
decode_superblock(std::span<const std::byte, block_bytes> block, std::uint32_t copy) noexcept {
    const auto encrypted = check_block(block, superblock_magic, copy);
    if (!encrypted) return std::unexpected(encrypted.error());
    Superblock superblock;
    superblock.encrypted = *encrypted;
    std::copy_n(block.begin() + 24, superblock.pool.size(), superblock.pool.begin());
    superblock.shard = get<std::uint32_t>(block, 40);
    superblock.generation = get<std::uint64_t>(block, 48);
    superblock.epoch = get<std::uint32_t>(block, 56);
    superblock.clean = get<std::uint32_t>(block, 60) != 0;
    superblock.pool_bytes = get<std::uint64_t>(block, 64);
    superblock.segment_bytes = get<std::uint32_t>(block, 72);
    superblock.segment_count = get<std::uint32_t>(block, 76);
    superblock.lsn_base = get<std::uint64_t>(block, 80);
    superblock.segment_seq_base = get<std::uint64_t>(block, 88);
    superblock.segment_floor = get<std::uint64_t>(block, 96);
    superblock.checkpoint.segment_seq = get<std::uint64_t>(block, 104);
    superblock.checkpoint.slot = get<std::uint32_t>(block, 112);
    superblock.checkpoint.offset = get<std::uint32_t>(block, 116);
    superblock.checkpoint.payload_bytes = get<std::uint32_t>(block, 120);
    superblock.checkpoint.covered = get<std::uint64_t>(block, 128);
    std::memcpy(superblock.bad_slots.data(), block.data() + 2048, superblock.bad_slots.size());

    const bool sane = superblock.segment_bytes >= segment_bytes_min &&
                      superblock.segment_bytes <= segment_bytes_max &&
                      superblock.segment_bytes % segment_granule == 0 &&
                      superblock.segment_count > 0 &&
                      superblock.segment_count <= segment_count_max &&
                      std::uint64_t{superblock.segment_bytes} * superblock.segment_count <=
                          superblock.pool_bytes &&
                      (!superblock.checkpoint.valid() ||
                       (superblock.checkpoint.slot < superblock.segment_count &&
                        superblock.checkpoint.offset < superblock.segment_bytes &&
                        superblock.checkpoint.payload_bytes < superblock.segment_bytes));
    if (!sane) return std::unexpected(CodecError::malformed);
    return superblock;
}

std::optional<PoolId> pool_of_superblock(std::span<const std::byte, block_bytes> block,
                                         std::uint32_t copy) noexcept {
    const auto superblock = decode_superblock(block, copy);
    return superblock ? std::optional{superblock->pool} : std::nullopt;
}

void encode_segment_header(std::span<std::byte, block_bytes> block, const SegmentHeader& header,
                           std::uint32_t copy) noexcept {
    begin_block(block, segment_magic, header.pool, header.shard, header.key.has_value());
    put(block, 44, header.slot);
    put(block, 48, header.segment_seq);
    put(block, 56, header.epoch);
    put(block, 60, copy);
    if (header.key) {
        std::ranges::copy(header.key->wrapper, block.begin() + 64);
        std::ranges::copy(header.key->nonce, block.begin() + 72);
        std::ranges::copy(header.key->key, block.begin() + 84);
        std::ranges::copy(header.key->tag, block.begin() + 116);
    }
    seal_block(block, copy);
}

std::expected<SegmentHeader, CodecError>
decode_segment_header(std::span<const std::byte, block_bytes> block, std::uint32_t copy) noexcept {
    const auto encrypted = check_block(block, segment_magic, copy);
    if (!encrypted) return std::unexpected(encrypted.error());
    SegmentHeader header;
    std::copy_n(block.begin() + 24, header.pool.size(), header.pool.begin());
    header.shard = get<std::uint32_t>(block, 40);
    header.slot = get<std::uint32_t>(block, 44);
    header.segment_seq = get<std::uint64_t>(block, 48);
    header.epoch = get<std::uint32_t>(block, 56);
    if (*encrypted) {
        WrappedKey& key = header.key.emplace();
        std::copy_n(block.begin() + 64, key.wrapper.size(), key.wrapper.begin());
        std::copy_n(block.begin() + 72, key.nonce.size(), key.nonce.begin());
        std::copy_n(block.begin() + 84, key.key.size(), key.key.begin());
        std::copy_n(block.begin() + 116, key.tag.size(), key.tag.begin());
    }
    return header;
}

void encode_frame_header(std::span<std::byte, frame_header_bytes> bytes, const FrameHeader& header,
                         std::uint32_t seed) noexcept {
    std::ranges::fill(bytes, std::byte{0});
    put(bytes, 0, frame_magic);
    put(bytes, 8, format_major);
    put(bytes, 10, std::uint16_t{frame_header_bytes});
    put(bytes, 12, header.shard);
    put(bytes, 16, header.segment_seq);
    put(bytes, 24, header.batch_seq);
    put(bytes, 32, header.durable);
    put(bytes, 40, header.epoch);
    put(bytes, 44, header.offset);
    put(bytes, 48, header.bytes);
    put(bytes, 52, header.used);
    put(bytes, 56, header.records);
    const auto start =
        static_cast<std::uint32_t>(place_hash(seed, header.segment_seq, header.offset));
    put(bytes, 4, crc32c(start, bytes.subspan<8>()));
}

std::expected<FrameHeader, CodecError> decode_frame_header(std::span<const std::byte> bytes,
                                                           std::size_t available,
                                                           std::uint32_t seed,
                                                           std::uint32_t offset) noexcept {
    if (bytes.size() < frame_header_bytes) return std::unexpected(CodecError::truncated);
    if (get<std::uint32_t>(bytes, 0) != frame_magic) return std::unexpected(CodecError::not_ours);
    FrameHeader header;
    header.shard = get<std::uint32_t>(bytes, 12);
    header.segment_seq = get<std::uint64_t>(bytes, 16);
    header.batch_seq = get<std::uint64_t>(bytes, 24);
    header.durable = get<std::uint64_t>(bytes, 32);
    header.epoch = get<std::uint32_t>(bytes, 40);
    header.offset = get<std::uint32_t>(bytes, 44);
    header.bytes = get<std::uint32_t>(bytes, 48);
    header.used = get<std::uint32_t>(bytes, 52);
    header.records = get<std::uint32_t>(bytes, 56);
    if (header.offset != offset) return std::unexpected(CodecError::not_ours);
    const auto start = static_cast<std::uint32_t>(place_hash(seed, header.segment_seq, offset));
    if (get<std::uint32_t>(bytes, 4) != crc32c(start, bytes.subspan(8, frame_header_bytes - 8))) {
        return std::unexpected(CodecError::bad_checksum);
    }
    if (!readable(get<std::uint16_t>(bytes, 8))) return std::unexpected(CodecError::unsupported);
    if (header.bytes > available) return std::unexpected(CodecError::truncated);
    if (header.bytes % block_bytes != 0 || header.used > header.bytes ||
        header.used < frame_header_bytes || header.records > header.used / record_header_bytes) {
        return std::unexpected(CodecError::malformed);
    }
    return header;
}

bool known(std::uint16_t type) noexcept {
    switch (static_cast<RecordType>(type)) {
    case RecordType::message:
    case RecordType::body_chunk:
    case RecordType::message_commit:
    case RecordType::status:
    case RecordType::tomb:
    case RecordType::abort:
    case RecordType::checkpoint_part:
    case RecordType::checkpoint_end:
    case RecordType::watermark:
    case RecordType::batch_failed:
        return true;
    }
    return false;
}

RecordSeeds record_seeds(std::uint32_t seed, std::uint64_t segment_seq,
                         std::uint32_t offset) noexcept {
    const std::uint64_t generation = SEEDED_DEFECT(stale_crc_seed) ? 0 : segment_seq;
    const std::uint64_t hash = place_hash(seed, generation, offset);
    return {static_cast<std::uint32_t>(hash), static_cast<std::uint32_t>(hash >> 32)};
}

void encode_record_header(std::span<std::byte, record_header_bytes> bytes,
                          const RecordHeader& header, RecordSeeds seeds) noexcept {
    put(bytes, 4, header.payload_crc);
    put(bytes, 8, header.type);
    put(bytes, 10, header.flags);
    put(bytes, 12, header.payload_bytes);
    put(bytes, 16, header.lsn);
    put(bytes, 24, header.id.value);
    put(bytes, 0, crc32c(seeds.header, bytes.subspan<4>()));
}

std::expected<RecordHeader, CodecError> decode_record_header(std::span<const std::byte> bytes,
                                                             std::size_t available,
                                                             RecordSeeds seeds) noexcept {
    if (available < record_header_bytes || bytes.size() < record_header_bytes)
        return std::unexpected(CodecError::truncated);
    RecordHeader header;
    header.payload_crc = get<std::uint32_t>(bytes, 4);
    header.type = get<std::uint16_t>(bytes, 8);
    header.flags = get<std::uint16_t>(bytes, 10);
    header.payload_bytes = get<std::uint32_t>(bytes, 12);
    header.lsn = get<std::uint64_t>(bytes, 16);
    header.id = {get<std::uint64_t>(bytes, 24)};
    if (header.type == 0) return std::unexpected(CodecError::not_ours); // also what zeros look like
    if (get<std::uint32_t>(bytes, 0) !=
        crc32c(seeds.header, bytes.subspan(4, record_header_bytes - 4))) {
        return std::unexpected(CodecError::bad_checksum);
    }
    if (header.payload_bytes > record_payload_bytes_max)
        return std::unexpected(CodecError::malformed);
    // In this order, so that nothing can wrap round.
    const std::size_t room = available - record_header_bytes;
    if (header.payload_bytes > room ||
        header.stored_bytes() - header.payload_bytes > room - header.payload_bytes) {
        return std::unexpected(CodecError::truncated);
    }
    return header;
}

bool payload_valid(const RecordHeader& header, std::span<const std::byte> payload,
                   RecordSeeds seeds) noexcept {
    if (SEEDED_DEFECT(unchecked_payload)) return true;
    return payload.size() == header.stored_bytes() &&
           crc32c(seeds.payload, payload) == header.payload_crc;
}

void encode_message_prefix(std::span<std::byte, message_prefix_bytes> bytes,
                           const MessagePrefix& prefix) noexcept {
    put(bytes, 0, prefix.envelope_bytes);
    put(bytes, 4, prefix.prelude_bytes);
    put(bytes, 8, prefix.content_bytes);
    put(bytes, 16, prefix.chunk_count);
    put(bytes, 20, prefix.envelope_crc);
}

std::expected<MessagePrefix, CodecError> decode_message_prefix(RecordType type,
                                                               std::span<const std::byte> head,
                                                               std::size_t payload_bytes) noexcept {
    if (head.size() < message_prefix_bytes || payload_bytes < head.size())
        return std::unexpected(CodecError::truncated);
    MessagePrefix prefix;
    prefix.envelope_bytes = get<std::uint32_t>(head, 0);
    prefix.prelude_bytes = get<std::uint32_t>(head, 4);
    prefix.content_bytes = get<std::uint64_t>(head, 8);
    prefix.chunk_count = get<std::uint32_t>(head, 16);
    prefix.envelope_crc = get<std::uint32_t>(head, 20);
    const std::uint64_t rest = payload_bytes - message_prefix_bytes;
    if (prefix.prelude_bytes > prefix.content_bytes) return std::unexpected(CodecError::malformed);
    if (type == RecordType::message) {
        if (prefix.content_bytes > rest) return std::unexpected(CodecError::truncated);
        if (prefix.chunk_count != 0 || prefix.envelope_bytes != rest - prefix.content_bytes) {
            return std::unexpected(CodecError::malformed);
        }
        return prefix;
    }
    if (prefix.prelude_bytes > rest) return std::unexpected(CodecError::truncated);
    if (prefix.envelope_bytes != rest - prefix.prelude_bytes)
        return std::unexpected(CodecError::malformed);
    return prefix;
}

void encode_chunk_prefix(std::span<std::byte, chunk_prefix_bytes> bytes,
                         const ChunkPrefix& prefix) noexcept {
    put(bytes, 0, prefix.index);
    put(bytes, 4, std::uint32_t{0});
    put(bytes, 8, prefix.body_offset);
}

std::expected<ChunkPrefix, CodecError>
decode_chunk_prefix(std::span<const std::byte> payload) noexcept {
    if (payload.size() < chunk_prefix_bytes) return std::unexpected(CodecError::truncated);
    return ChunkPrefix{get<std::uint32_t>(payload, 0), get<std::uint64_t>(payload, 8)};
}

std::uint32_t encoded_status_bytes(const StatusView& status, std::size_t recipient_count) noexcept {
    const std::size_t error_bytes = std::min(status.last_error.size(), last_error_bytes_max);
    return static_cast<std::uint32_t>(status_prefix_bytes + recipient_count * 4 + error_bytes);
}

void encode_status(std::span<std::byte> bytes, const StatusView& status,
                   std::span<const RecipientStatus> recipients) noexcept {
    CHECK(bytes.size() == encoded_status_bytes(status, recipients.size()));
    const std::string_view error = status.last_error.substr(0, last_error_bytes_max);
    put(bytes, 0, std::int64_t{status.due.time_since_epoch().count()});
    put(bytes, 8, status.attempts);
    put(bytes, 12, static_cast<std::uint32_t>(recipients.size()));
    put(bytes, 16, static_cast<std::uint16_t>(error.size()));
    put(bytes, 18, static_cast<std::uint16_t>(status.delay_notified ? 1 : 0));
    put(bytes, 20, std::uint32_t{0});
    std::size_t at = status_prefix_bytes;
    for (const RecipientStatus& recipient : recipients) {
        put(bytes, at, static_cast<std::uint8_t>(recipient.state));
        put(bytes, at + 1, recipient.attempts);
        put(bytes, at + 2, recipient.last_code);
        at += 4;
    }
    std::ranges::copy(base::as_bytes(error), bytes.data() + at);
}

std::expected<StatusView, CodecError> decode_status(std::span<const std::byte> payload,
                                                    std::vector<RecipientStatus>& recipients) {
    if (payload.size() < status_prefix_bytes) return std::unexpected(CodecError::truncated);
    StatusView status;
    status.due = base::WallTime{std::chrono::milliseconds{get<std::int64_t>(payload, 0)}};
    status.attempts = get<std::uint32_t>(payload, 8);
    const std::size_t count = get<std::uint32_t>(payload, 12);
    const std::size_t error_bytes = get<std::uint16_t>(payload, 16);
    status.delay_notified = (get<std::uint16_t>(payload, 18) & 1) != 0;
    const std::size_t rest = payload.size() - status_prefix_bytes;
    if (count > rest / 4 || rest - count * 4 != error_bytes)
        return std::unexpected(CodecError::malformed);
    recipients.clear();
    recipients.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
        const std::size_t at = status_prefix_bytes + i * 4;
        const auto state = get<std::uint8_t>(payload, at);
        if (state > static_cast<std::uint8_t>(RecipientState::removed)) {
            return std::unexpected(CodecError::malformed);
        }
        recipients.push_back({static_cast<RecipientState>(state),
                              get<std::uint8_t>(payload, at + 1),
                              get<std::uint16_t>(payload, at + 2)});
    }
    status.last_error = base::as_text(payload.last(error_bytes));
    return status;
}

void encode_batch_failed(std::span<std::byte, batch_failed_bytes> bytes,
                         const BatchFailed& failed) noexcept {
    put(bytes, 0, failed.epoch);
    put(bytes, 4, std::uint32_t{0});
    put(bytes, 8, failed.batch_seq);
}

std::expected<BatchFailed, CodecError>
decode_batch_failed(std::span<const std::byte> payload) noexcept {
    if (payload.size() < batch_failed_bytes) return std::unexpected(CodecError::truncated);
    return BatchFailed{get<std::uint32_t>(payload, 0), get<std::uint64_t>(payload, 8)};
}

} // namespace queue
