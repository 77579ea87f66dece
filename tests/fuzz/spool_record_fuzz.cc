// spool_record_fuzz.cc: no bytes on a disk make a decoder of the spool crash, hang or contradict itself.
//
// The first byte says which decoder gets the rest. Where a checksum stands in the way, the harness
// puts the right one in, as a disk that holds nonsense written by ourselves would have it.
#include "dataplane/base/check.h"
#include "queue/checkpoint.h"
#include "queue/cipher.h"
#include "queue/codec.h"
#include "queue/disk/crc32c.h"
#include "queue/keyring.h"
#include "queue/segment_scan.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using namespace queue;

constexpr PoolId pool{std::byte{7}};
constexpr std::uint32_t shard = 1;
constexpr std::uint64_t segment_seq = 5;

using Block = std::array<std::byte, block_bytes>;

// Puts the input behind a block's checksum and makes the checksum fit.
void overlay(Block& block, std::span<const std::byte> input, std::uint32_t copy) {
    constexpr std::size_t from = 24; // magic, checksum, version and features stay ours
    std::copy_n(input.begin(), std::min(input.size(), block.size() - from), block.begin() + from);
    const std::uint32_t crc = crc32c(copy + 1, std::span{block}.subspan(12));
    std::memcpy(block.data() + 8, &crc, sizeof crc);
}

void superblock(std::span<const std::byte> input) {
    Block block{};
    std::copy_n(input.begin(), std::min(input.size(), block.size()), block.begin());
    static_cast<void>(decode_superblock(block, 0));
    encode_superblock(block, Superblock{}, 2);
    overlay(block, input, 2);
    auto decoded = decode_superblock(block, 2);
    if (!decoded) return;
    CHECK(decoded->segment_count > 0);
    CHECK(decoded->segment_count <= segment_count_max);
    CHECK(std::uint64_t{decoded->segment_bytes} * decoded->segment_count <= decoded->pool_bytes);
    for (std::uint32_t slot = 0; slot < decoded->segment_count; ++slot)
        static_cast<void>(decoded->bad(slot));
    Block again{};
    encode_superblock(again, *decoded, 2);
    CHECK(decode_superblock(again, 2).has_value());
}

void segment_header(std::span<const std::byte> input) {
    Block block{};
    encode_segment_header(block, SegmentHeader{}, 1);
    overlay(block, input, 1);
    CHECK(decode_segment_header(block, 1).has_value());
    encode_segment_header(block, SegmentHeader{.key = WrappedKey{}}, 1);
    overlay(block, input, 1);
    const auto encrypted = decode_segment_header(block, 1);
    CHECK(encrypted.has_value());
    CHECK(encrypted->key.has_value());
    Block again{};
    encode_segment_header(again, *encrypted, 1);
    CHECK(decode_segment_header(again, 1)->key == encrypted->key);
    static const auto ring = KeyRing::parse(std::string(64, '1'), "fuzz").value();
    CHECK(!ring->unwrap(*encrypted->key, encrypted->pool, encrypted->shard, 1)); // forged
}

void keys(std::span<const std::byte> input) {
    static_cast<void>(KeyRing::parse(
        {reinterpret_cast<const char*>(input.data()), input.size()}, "fuzz"));
}

void envelope_round_trip(std::span<const std::byte> bytes) {
    Envelope envelope;
    if (!decode_envelope(bytes, envelope)) return;
    CHECK(envelope.recipient_count() > 0);
    const auto encoded_bytes = encoded_envelope_bytes(envelope);
    if (!encoded_bytes) return; // more than we would accept ourselves
    std::vector<std::byte> encoded(*encoded_bytes);
    encode_envelope(encoded, envelope);
    Envelope again;
    CHECK(decode_envelope(encoded, again).has_value());
    CHECK(again.sender() == envelope.sender());
    CHECK(again.arrival == envelope.arrival);
    CHECK(again.recipient_count() == envelope.recipient_count());
    for (std::size_t i = 0; i < envelope.recipient_count(); ++i) {
        CHECK(again.recipient(i).address == envelope.recipient(i).address);
        CHECK(again.recipient(i).orcpt == envelope.recipient(i).orcpt);
        CHECK(again.recipient_domain(i) == envelope.recipient_domain(i));
    }
}

void message(std::span<const std::byte> input) {
    envelope_round_trip(input);
    for (const RecordType type : {RecordType::message, RecordType::message_commit}) {
        auto prefix = decode_message_prefix(type, input);
        if (!prefix) continue;
        CHECK(prefix->envelope_bytes <= input.size() - message_prefix_bytes);
        CHECK(prefix->prelude_bytes <= prefix->content_bytes);
        envelope_round_trip(input.subspan(message_prefix_bytes, prefix->envelope_bytes));
    }
}

void checkpoint(std::span<const std::byte> input) {
    if (const auto end = decode_checkpoint_end(input))
        CHECK(encode_checkpoint_end(*end).size() == input.size());
    auto reader = CheckpointReader::open(input);
    CheckpointEntry entry;
    while (reader && reader->next(entry)) {
        CHECK(!entry.status.empty());
        CHECK(entry.status.size() == entry.domains.size());
    }
}

void status(std::span<const std::byte> input) {
    checkpoint(input);
    static_cast<void>(decode_chunk_prefix(input));
    static_cast<void>(decode_batch_failed(input));
    std::vector<RecipientStatus> recipients;
    auto decoded = decode_status(input, recipients);
    if (!decoded || decoded->last_error.size() > last_error_bytes_max) return;
    std::vector<std::byte> encoded(encoded_status_bytes(*decoded, recipients.size()));
    encode_status(encoded, *decoded, recipients);
    std::vector<RecipientStatus> again;
    auto second = decode_status(encoded, again);
    CHECK(second.has_value());
    CHECK(second->due == decoded->due);
    CHECK(second->last_error == decoded->last_error);
    CHECK(again.size() == recipients.size());
}

// A segment whose frame and record headers are the input's, all with checksums that fit.
void segment(std::span<const std::byte> input) {
    std::vector<std::byte> image(16 * block_bytes);
    const std::span<std::byte> bytes{image};
    for (std::uint32_t copy = 0; copy < segment_header_copies; ++copy) {
        encode_segment_header(bytes.subspan(copy * block_bytes).first<block_bytes>(),
                              {.pool = pool, .shard = shard, .slot = 3, .segment_seq = segment_seq},
                              copy);
    }
    std::copy_n(input.begin(), std::min(input.size(), image.size() - segment_header_bytes),
                image.begin() + segment_header_bytes);
    const std::uint32_t seed = pool_seed(pool, shard);
    const auto number = [&]() -> std::uint32_t {
        std::uint16_t value = 0;
        const std::size_t taken = std::min(input.size(), sizeof value);
        std::memcpy(&value, input.data(), taken);
        input = input.subspan(taken);
        return value;
    };
    while (input.size() >= 8) {
        const std::uint32_t what = number();
        const std::uint32_t at = segment_header_bytes + number() % (14 * 512) * record_alignment;
        const std::uint32_t length = number();
        const std::uint32_t more = number();
        if (what % 3 == 0 && at % block_bytes == 0) {
            encode_frame_header(bytes.subspan(at).first<frame_header_bytes>(),
                                {.shard = shard,
                                 .segment_seq = segment_seq,
                                 .batch_seq = more,
                                 .offset = at,
                                 .bytes = length * 512,
                                 .used = more,
                                 .records = what},
                                seed);
        } else if (at + record_header_bytes <= image.size()) {
            const RecordSeeds seeds = record_seeds(seed, segment_seq, at);
            const std::size_t stored = length + (what % 4 >= record_encrypted ? record_tag_bytes : 0);
            const std::size_t payload =
                std::min<std::size_t>(stored, image.size() - at - record_header_bytes);
            encode_record_header(
                bytes.subspan(at).first<record_header_bytes>(),
                {.payload_crc =
                     crc32c(seeds.payload, bytes.subspan(at + record_header_bytes, payload)),
                 .type = static_cast<std::uint16_t>(more),
                 .flags = static_cast<std::uint16_t>(what % 4),
                 .payload_bytes = length,
                 .lsn = what},
                seeds);
        }
    }
    const SegmentScan scan = scan_segment(image, pool, shard, 3);
    CHECK(scan.segment_seq == segment_seq);
    std::uint32_t end = segment_header_bytes;
    for (const FoundRecord& record : scan.records) {
        CHECK(record.offset >= end); // none twice, none inside another
        CHECK(record.payload.data() == image.data() + record.offset + record_header_bytes);
        CHECK(record.offset + record_header_bytes + record.payload.size() <= image.size());
        end = record.offset + record_bytes(record.header);
        if (!record.header.encrypted()) continue;
        // Nobody without the key makes one that opens.
        std::vector<std::byte> stored(record.payload.begin(), record.payload.end());
        RecordCipher cipher{pool, shard};
        const DataKey key{};
        CHECK(!cipher.open_record({key, segment_seq, record.offset, record.header}, stored));
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const std::span<const std::byte> input = std::as_bytes(std::span{data, size}).subspan(1);
    switch (data[0] % 6) {
    case 0:
        superblock(input);
        break;
    case 1:
        segment_header(input);
        break;
    case 2:
        message(input);
        break;
    case 3:
        status(input);
        break;
    case 4:
        segment(input);
        break;
    case 5:
        keys(input);
        break;
    }
    return 0;
}
