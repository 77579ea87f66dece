// codec.h: the spool's bytes, version 2: superblocks, segment headers, batch frames and records.
//
// Scope      Encoding, decoding and checking over spans: no I/O, no clock, no allocation but what an
//            Envelope needs. docs/spool-format.md says the same in prose; change both together.
//            Where things are put is log.h's business, what they mean together is recovery.h's.
// Threading  Any.
// Failure    CodecError. Nothing a disk can hold makes a decoder read outside its span or trust a
//            length that it has not checked.
//
// All numbers are little-endian. Every checksum of something in a segment starts from a seed made of
// the pool, the segment's sequence number and the offset, so that bytes of an older generation of the
// same place, or bytes that landed in the wrong place, never check out.
#pragma once

#include "queue/disk/pool_layout.h"
#include "queue/limits.h"
#include "queue/message.h"

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace queue {

inline constexpr std::uint16_t format_major = 2;
inline constexpr std::uint16_t format_major_oldest = 1; // that is still read
inline constexpr std::uint16_t format_minor = 1;

enum class CodecError : std::uint8_t {
    not_ours,    // no magic, or a field that our own writing never has
    unsupported, // a later major version, or an incompatible feature
    bad_checksum,
    truncated, // a length points outside the bytes at hand
    malformed, // checked out, yet contradicts itself
};

/// A segment's own key, encrypted by one of the operator's; keyring.h makes and opens it.
struct WrappedKey {
    std::array<std::byte, 8> wrapper{}; // says which of the operator's keys
    std::array<std::byte, 12> nonce{};
    std::array<std::byte, 32> key{};
    std::array<std::byte, 16> tag{};
    bool operator==(const WrappedKey&) const noexcept = default;
};

/// Where the last complete checkpoint ends, and what it makes dispensable.
struct CheckpointPointer {
    std::uint64_t segment_seq = 0; // of its CHECKPOINT_END record; 0: there is none
    std::uint32_t slot = 0;
    std::uint32_t offset = 0;
    std::uint32_t payload_bytes = 0;
    std::uint64_t covered = 0; // what segments below say of others is in the checkpoint
    [[nodiscard]] bool valid() const noexcept { return segment_seq != 0; }
};

struct Superblock {
    PoolId pool{};
    std::uint32_t shard = 0;
    std::uint64_t generation = 0; // of the superblock: the newest that two copies agree on counts
    std::uint32_t epoch = 0;      // boots so far
    bool clean = false;           // the last boot ended with close()
    bool encrypted = false;       // segments may be: an older program must not touch the pool
    std::uint64_t pool_bytes = 0;
    std::uint32_t segment_bytes = 0;
    std::uint32_t segment_count = 0;
    std::uint64_t lsn_base = 0;         // this boot's records are numbered from here
    std::uint64_t segment_seq_base = 0; // and its segments from here
    std::uint64_t segment_floor = 0;    // segments below this are dead, whatever they hold
    CheckpointPointer checkpoint;
    std::array<std::uint8_t, segment_count_max / 8> bad_slots{}; // never read nor written again

    [[nodiscard]] bool bad(std::uint32_t slot) const noexcept {
        return (bad_slots[slot / 8] >> (slot % 8) & 1) != 0;
    }
    [[nodiscard]] std::uint32_t bad_count() const noexcept {
        std::uint32_t count = 0;
        for (const std::uint8_t eight : bad_slots)
            count += static_cast<std::uint32_t>(std::popcount(eight));
        return count;
    }
    void mark_bad(std::uint32_t slot) noexcept {
        bad_slots[slot / 8] = static_cast<std::uint8_t>(bad_slots[slot / 8] | 1U << (slot % 8));
    }
};

static_assert(superblock_area_bytes == segment_granule);

void encode_superblock(std::span<std::byte, block_bytes> block, const Superblock& superblock,
                       std::uint32_t copy) noexcept;
[[nodiscard]] std::expected<Superblock, CodecError>
decode_superblock(std::span<const std::byte, block_bytes> block, std::uint32_t copy) noexcept;
/// Which pool it is of, for who needs no more (queue/disk).
[[nodiscard]] std::optional<PoolId>
pool_of_superblock(std::span<const std::byte, block_bytes> block, std::uint32_t copy) noexcept;

/// What ties a segment's checksums to its pool.
[[nodiscard]] std::uint32_t pool_seed(const PoolId& pool, std::uint32_t shard) noexcept;

struct SegmentHeader {
    PoolId pool{};
    std::uint32_t shard = 0;
    std::uint32_t slot = 0;
    std::uint64_t segment_seq = 0; // never used twice
    std::uint32_t epoch = 0;
    std::optional<WrappedKey> key; // of its records; none: they are not encrypted
};

inline constexpr std::size_t segment_header_copies = 2;
inline constexpr std::uint32_t segment_header_bytes = segment_header_copies * block_bytes;

void encode_segment_header(std::span<std::byte, block_bytes> block, const SegmentHeader& header,
                           std::uint32_t copy) noexcept;
[[nodiscard]] std::expected<SegmentHeader, CodecError>
decode_segment_header(std::span<const std::byte, block_bytes> block, std::uint32_t copy) noexcept;

/// The head of one write. Offsets are counted from the segment's first byte.
struct FrameHeader {
    std::uint32_t shard = 0;
    std::uint64_t segment_seq = 0;
    std::uint64_t batch_seq = 0; // counted from 1 in each epoch
    std::uint64_t durable = 0;   // all batches of this epoch up to this one were durable by then
    std::uint32_t epoch = 0;
    std::uint32_t offset = 0;
    std::uint32_t bytes = 0; // with padding; a multiple of block_bytes
    std::uint32_t used = 0;  // up to the end of the last record
    std::uint32_t records = 0;
};

inline constexpr std::uint32_t frame_header_bytes = 64;

void encode_frame_header(std::span<std::byte, frame_header_bytes> bytes, const FrameHeader& header,
                         std::uint32_t seed) noexcept;
/// \param available  bytes there are from its beginning on: a frame that is longer is truncated
/// \param offset     where the bytes were found; a header that belongs elsewhere is not_ours
[[nodiscard]] std::expected<FrameHeader, CodecError>
decode_frame_header(std::span<const std::byte> bytes, std::size_t available, std::uint32_t seed,
                    std::uint32_t offset) noexcept;
[[nodiscard]] inline std::expected<FrameHeader, CodecError>
decode_frame_header(std::span<const std::byte> bytes, std::uint32_t seed,
                    std::uint32_t offset) noexcept {
    return decode_frame_header(bytes, bytes.size(), seed, offset);
}

enum class RecordType : std::uint16_t {
    message = 0x01,         // envelope, prelude and content
    body_chunk = 0x02,      // part of a body that is too large for one record
    message_commit = 0x03,  // envelope and prelude; valid only with all its chunks
    status = 0x10,          // the absolute state of a message's recipients
    tomb = 0x20,            // the message is done
    abort = 0x21,           // the message was refused after its record had been submitted
    checkpoint_part = 0x40, // entries of the index; checkpoint.h
    checkpoint_end = 0x43,  // what the parts are, and where the log goes on
    watermark = 0x41,       // empty: its frame's `durable` is the point
    batch_failed = 0x42,    // a batch that was refused: its absence is no damage
};
[[nodiscard]] bool known(std::uint16_t type) noexcept;

inline constexpr std::uint16_t record_skippable = 1; // who does not know the type may ignore it
inline constexpr std::uint16_t record_encrypted =
    2; // the payload is, and a tag follows it; cipher.h
inline constexpr std::uint32_t record_tag_bytes = 16;

struct RecordHeader {
    std::uint32_t payload_crc = 0; // over what is stored, so that nobody needs a key to check it
    std::uint16_t type = 0;
    std::uint16_t flags = 0;
    std::uint32_t payload_bytes = 0; // as it was given: encryption does not change it
    std::uint64_t lsn = 0;
    MessageId id;

    [[nodiscard]] constexpr bool encrypted() const noexcept {
        return (flags & record_encrypted) != 0;
    }
    /// Payload and tag.
    [[nodiscard]] constexpr std::uint32_t stored_bytes() const noexcept {
        return payload_bytes + (encrypted() ? record_tag_bytes : 0);
    }
};

inline constexpr std::uint32_t record_header_bytes = 32;
inline constexpr std::uint32_t record_alignment = 8;

[[nodiscard]] constexpr std::uint32_t padded(std::uint32_t bytes) noexcept {
    return (bytes + (record_alignment - 1)) & ~(record_alignment - 1);
}
[[nodiscard]] constexpr std::uint32_t record_bytes(std::uint32_t payload_bytes) noexcept {
    return record_header_bytes + padded(payload_bytes);
}
[[nodiscard]] constexpr std::uint32_t record_bytes(const RecordHeader& header) noexcept {
    return record_bytes(header.stored_bytes());
}
/// Of a record in a segment that is encrypted or not. What has no payload has nothing to hide.
[[nodiscard]] constexpr std::uint32_t record_bytes(std::uint32_t payload_bytes,
                                                   bool encrypted) noexcept {
    return record_bytes(payload_bytes + (encrypted && payload_bytes != 0 ? record_tag_bytes : 0));
}

/// The largest record by itself fills a batch; in an encrypted segment its tag takes from this.
inline constexpr std::uint32_t record_payload_bytes_max =
    batch_bytes_max - frame_header_bytes - record_header_bytes;

/// The two seeds of a record: a stale record validates only if 64 mixed bits collide.
struct RecordSeeds {
    std::uint32_t header;
    std::uint32_t payload;
};
[[nodiscard]] RecordSeeds record_seeds(std::uint32_t seed, std::uint64_t segment_seq,
                                       std::uint32_t offset) noexcept;

void encode_record_header(std::span<std::byte, record_header_bytes> bytes,
                          const RecordHeader& header, RecordSeeds seeds) noexcept;
/// Checks the header alone.
/// \param available  bytes from the header's first to the end of what may belong to the record
[[nodiscard]] std::expected<RecordHeader, CodecError>
decode_record_header(std::span<const std::byte> bytes, std::size_t available,
                     RecordSeeds seeds) noexcept;
/// \param payload  as stored: with its tag, without padding
[[nodiscard]] bool payload_valid(const RecordHeader& header, std::span<const std::byte> payload,
                                 RecordSeeds seeds) noexcept;

/// MSG and MSG_COMMIT: this prefix, the envelope, then (MSG) the whole content or (COMMIT) the prelude.
struct MessagePrefix {
    std::uint32_t envelope_bytes = 0;
    std::uint32_t prelude_bytes = 0;
    std::uint64_t content_bytes = 0; // prelude and body, wherever the body is
    std::uint32_t chunk_count = 0;   // 0 in MSG
    std::uint32_t envelope_crc = 0;  // of the envelope's bytes alone; 0: not known
};
inline constexpr std::uint32_t message_prefix_bytes = 24;

void encode_message_prefix(std::span<std::byte, message_prefix_bytes> bytes,
                           const MessagePrefix& prefix) noexcept;
/// Also checks that the parts fill the payload exactly.
/// \param head  the payload, or as much of it as was read; `payload_bytes` says how long it is
[[nodiscard]] std::expected<MessagePrefix, CodecError>
decode_message_prefix(RecordType type, std::span<const std::byte> head,
                      std::size_t payload_bytes) noexcept;
[[nodiscard]] inline std::expected<MessagePrefix, CodecError>
decode_message_prefix(RecordType type, std::span<const std::byte> payload) noexcept {
    return decode_message_prefix(type, payload, payload.size());
}

/// BODY_CHUNK: this prefix, then bytes of the body.
struct ChunkPrefix {
    std::uint32_t index = 0;
    std::uint64_t body_offset = 0;
};
inline constexpr std::uint32_t chunk_prefix_bytes = 16;

void encode_chunk_prefix(std::span<std::byte, chunk_prefix_bytes> bytes,
                         const ChunkPrefix& prefix) noexcept;
[[nodiscard]] std::expected<ChunkPrefix, CodecError>
decode_chunk_prefix(std::span<const std::byte> payload) noexcept;

/// Bytes the envelope takes on disk, or nothing when a field or the whole exceeds its bound.
[[nodiscard]] std::optional<std::uint32_t>
encoded_envelope_bytes(const Envelope& envelope) noexcept;
/// \pre  bytes.size() == encoded_envelope_bytes()
void encode_envelope(std::span<std::byte> bytes, const Envelope& envelope) noexcept;
/// Clears `envelope` first; on an error its content is unspecified but usable.
[[nodiscard]] std::expected<void, CodecError> decode_envelope(std::span<const std::byte> bytes,
                                                              Envelope& envelope);

/// STATUS: absolute, so that replaying it twice or only the last one gives the same.
struct StatusView {
    base::WallTime due{}; // epoch 0: the message is not deferred but in a delivery round
    std::uint32_t attempts = 0;
    bool delay_notified = false;
    std::string_view last_error;
};
inline constexpr std::uint32_t status_prefix_bytes = 24;

[[nodiscard]] std::uint32_t encoded_status_bytes(const StatusView& status,
                                                 std::size_t recipient_count) noexcept;
void encode_status(std::span<std::byte> bytes, const StatusView& status,
                   std::span<const RecipientStatus> recipients) noexcept;
/// \param recipients  gets one entry per recipient of the record
[[nodiscard]] std::expected<StatusView, CodecError>
decode_status(std::span<const std::byte> payload, std::vector<RecipientStatus>& recipients);

struct BatchFailed {
    std::uint32_t epoch = 0;
    std::uint64_t batch_seq = 0;
};
inline constexpr std::uint32_t batch_failed_bytes = 16;

void encode_batch_failed(std::span<std::byte, batch_failed_bytes> bytes,
                         const BatchFailed& failed) noexcept;
[[nodiscard]] std::expected<BatchFailed, CodecError>
decode_batch_failed(std::span<const std::byte> payload) noexcept;

} // namespace queue
