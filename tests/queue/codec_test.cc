#include "dataplane/base/slab.h"
#include "queue/codec.h"
#include "queue/disk/crc32c.h"
#include "queue/segment_scan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

namespace {

using namespace queue;
using dataplane::base::as_bytes;

constexpr PoolId pool{std::byte{1}, std::byte{2}, std::byte{3}};

Envelope full_envelope() {
    Envelope envelope;
    envelope.set_sender("sender@example.org");
    envelope.set_envid("QQ314159");
    envelope.set_account("acme");
    envelope.set_tenant("tenant-1");
    envelope.set_campaign("spring");
    envelope.set_source("pool-a");
    envelope.set_session("s-42");
    envelope.add_recipient("one@example.net", "rfc822;one+40example.net",
                           notify_success | notify_delay);
    envelope.add_recipient("two@Example.COM", "", notify_never);
    envelope.arrival = dataplane::base::WallTime{std::chrono::milliseconds{1'700'000'000'123}};
    envelope.expiry = envelope.arrival + std::chrono::hours{120};
    envelope.client = *dataplane::base::SocketAddress::parse("[2001:db8::7]:2525");
    envelope.dsn_return = DsnReturn::headers;
    envelope.body = BodyKind::binary_mime;
    envelope.smtputf8 = envelope.client_tls = true;
    return envelope;
}

std::vector<std::byte> encoded(const Envelope& envelope) {
    std::vector<std::byte> bytes(encoded_envelope_bytes(envelope).value());
    encode_envelope(bytes, envelope);
    return bytes;
}

TEST(EnvelopeCodec, EveryFieldComesBack) {
    const Envelope before = full_envelope();
    Envelope after;
    ASSERT_TRUE(decode_envelope(encoded(before), after));
    EXPECT_EQ(after.sender(), before.sender());
    EXPECT_EQ(after.envid(), before.envid());
    EXPECT_EQ(after.account(), before.account());
    EXPECT_EQ(after.tenant(), before.tenant());
    EXPECT_EQ(after.campaign(), before.campaign());
    EXPECT_EQ(after.source(), before.source());
    EXPECT_EQ(after.session(), before.session());
    ASSERT_EQ(after.recipient_count(), 2U);
    EXPECT_EQ(after.recipient(0).address, "one@example.net");
    EXPECT_EQ(after.recipient(0).orcpt, "rfc822;one+40example.net");
    EXPECT_EQ(after.recipient(0).notify, notify_success | notify_delay);
    EXPECT_EQ(after.recipient(1).notify, notify_never);
    EXPECT_EQ(after.recipient_domain(1), "Example.COM");
    EXPECT_EQ(after.arrival, before.arrival);
    EXPECT_EQ(after.expiry, before.expiry);
    EXPECT_EQ(after.client, before.client);
    EXPECT_EQ(after.dsn_return, before.dsn_return);
    EXPECT_EQ(after.body, before.body);
    EXPECT_TRUE(after.smtputf8);
    EXPECT_TRUE(after.client_tls);
    EXPECT_FALSE(after.delay_notified);
}

TEST(EnvelopeCodec, EveryTruncationIsRefused) {
    const std::vector<std::byte> whole = encoded(full_envelope());
    Envelope envelope;
    std::size_t refused = 0;
    for (std::size_t bytes = 0; bytes < whole.size(); ++bytes) {
        if (!decode_envelope(std::span{whole}.first(bytes), envelope)) ++refused;
    }
    // Cut exactly between fields, it is a shorter envelope: only with a recipient is that one valid.
    EXPECT_EQ(refused, whole.size() - 1);
}

TEST(EnvelopeCodec, UnknownTagIsRefusedUnlessItIsOptional) {
    std::vector<std::byte> bytes = encoded(full_envelope());
    Envelope envelope;
    for (const std::uint16_t tag : {std::uint16_t{0x8077}, std::uint16_t{0x0077}}) {
        std::vector<std::byte> extended = bytes;
        const std::uint16_t field[] = {tag, 2, 0x4242};
        const auto* raw = reinterpret_cast<const std::byte*>(field);
        extended.insert(extended.end(), raw, raw + sizeof field);
        EXPECT_EQ(decode_envelope(extended, envelope).has_value(), tag == 0x8077);
    }
}

TEST(EnvelopeCodec, TooLongFieldHasNoEncoding) {
    Envelope envelope = full_envelope();
    envelope.set_envid(std::string(70'000, 'x'));
    EXPECT_FALSE(encoded_envelope_bytes(envelope).has_value());
}

TEST(StatusCodec, StateOfEveryRecipientComesBack) {
    const std::vector<RecipientStatus> recipients{{RecipientState::delivered, 1, 250},
                                                  {RecipientState::pending, 3, 451}};
    const StatusView before{.due = dataplane::base::WallTime{std::chrono::milliseconds{77}},
                            .attempts = 3,
                            .delay_notified = true,
                            .last_error = "451 4.7.1 later"};
    std::vector<std::byte> bytes(encoded_status_bytes(before, recipients.size()));
    encode_status(bytes, before, recipients);
    std::vector<RecipientStatus> decoded;
    auto after = decode_status(bytes, decoded);
    ASSERT_TRUE(after);
    EXPECT_EQ(after->due, before.due);
    EXPECT_EQ(after->attempts, 3U);
    EXPECT_TRUE(after->delay_notified);
    EXPECT_EQ(after->last_error, before.last_error);
    ASSERT_EQ(decoded.size(), 2U);
    EXPECT_EQ(decoded[1].state, RecipientState::pending);
    EXPECT_EQ(decoded[1].last_code, 451);
    for (std::size_t cut = 0; cut < bytes.size(); ++cut) {
        EXPECT_FALSE(decode_status(std::span{bytes}.first(cut), decoded)) << cut;
    }
}

TEST(SuperblockCodec, AnyFlippedBitIsSeen) {
    Superblock before{.pool = pool,
                      .shard = 3,
                      .generation = 9,
                      .epoch = 4,
                      .clean = true,
                      .pool_bytes = 8 << 20,
                      .segment_bytes = 1 << 20,
                      .segment_count = 8,
                      .lsn_base = 5,
                      .segment_seq_base = 6};
    before.mark_bad(5);
    std::array<std::byte, block_bytes> block;
    encode_superblock(block, before, 2);
    auto after = decode_superblock(block, 2);
    ASSERT_TRUE(after);
    EXPECT_EQ(after->generation, 9U);
    EXPECT_TRUE(after->clean);
    EXPECT_TRUE(after->bad(5));
    EXPECT_FALSE(after->bad(6));
    EXPECT_EQ(decode_superblock(block, 1).error(),
              CodecError::bad_checksum); // the copy of another place
    for (std::size_t bit = 0; bit < block.size() * 8; bit += 61) {
        block[bit / 8] ^= std::byte{1} << (bit % 8);
        EXPECT_FALSE(decode_superblock(block, 2)) << bit;
        block[bit / 8] ^= std::byte{1} << (bit % 8);
    }
}

TEST(SuperblockCodec, LaterMajorVersionIsRefusedAsSuch) {
    const Superblock superblock{
        .pool = pool, .pool_bytes = 8 << 20, .segment_bytes = 1 << 20, .segment_count = 8};
    std::array<std::byte, block_bytes> block;
    encode_superblock(block, superblock, 0);
    const std::uint16_t later = format_major + 1;
    std::memcpy(block.data() + 12, &later, sizeof later);
    const std::uint32_t crc = crc32c(1, std::span{block}.subspan(12));
    std::memcpy(block.data() + 8, &crc, sizeof crc);
    EXPECT_EQ(decode_superblock(block, 0).error(), CodecError::unsupported);
}

// A segment of two frames built by hand, as the log writes them.
struct SegmentImage {
    static constexpr std::uint32_t bytes = 64 << 10;
    static constexpr std::uint64_t seq = 77;
    std::vector<std::byte> image = std::vector<std::byte>(bytes);
    std::vector<std::uint32_t> record_offsets;
    std::vector<std::uint32_t> frame_offsets;
    std::uint32_t at = segment_header_bytes;

    SegmentImage() {
        for (std::uint32_t copy = 0; copy < segment_header_copies; ++copy) {
            encode_segment_header(std::span{image}.subspan(copy * block_bytes).first<block_bytes>(),
                                  {.pool = pool, .shard = 1, .slot = 4, .segment_seq = seq}, copy);
        }
    }
    void frame(std::uint64_t batch_seq, const std::vector<std::string>& payloads) {
        const std::uint32_t begin = at;
        frame_offsets.push_back(begin);
        std::uint32_t used = frame_header_bytes;
        const std::uint32_t seed = pool_seed(pool, 1);
        for (const std::string& payload : payloads) {
            const RecordSeeds seeds = record_seeds(seed, seq, begin + used);
            const std::span<std::byte> to = std::span{image}.subspan(begin + used);
            std::ranges::copy(as_bytes(payload), to.begin() + record_header_bytes);
            encode_record_header(to.first<record_header_bytes>(),
                                 {.payload_crc = crc32c(seeds.payload, as_bytes(payload)),
                                  .type = static_cast<std::uint16_t>(RecordType::status),
                                  .payload_bytes = static_cast<std::uint32_t>(payload.size()),
                                  .lsn = used,
                                  .id = {batch_seq}},
                                 seeds);
            record_offsets.push_back(begin + used);
            used += record_bytes(static_cast<std::uint32_t>(payload.size()));
        }
        const auto frame_bytes =
            static_cast<std::uint32_t>((used + block_bytes - 1) / block_bytes * block_bytes);
        encode_frame_header(std::span{image}.subspan(begin).first<frame_header_bytes>(),
                            {.shard = 1,
                             .segment_seq = seq,
                             .batch_seq = batch_seq,
                             .offset = begin,
                             .bytes = frame_bytes,
                             .used = used,
                             .records = static_cast<std::uint32_t>(payloads.size())},
                            seed);
        at += frame_bytes;
    }
    [[nodiscard]] SegmentScan scan() const { return scan_segment(image, pool, 1, 4); }
};

SegmentImage two_frames() {
    SegmentImage segment;
    segment.frame(1, {"alpha", std::string(5000, 'b'), "gamma"});
    segment.frame(2, {"delta"});
    return segment;
}

TEST(SegmentScan, FindsEveryRecord) {
    const SegmentImage segment = two_frames(); // the scan points into it
    const SegmentScan scan = segment.scan();
    EXPECT_EQ(scan.segment_seq, 77U);
    ASSERT_EQ(scan.records.size(), 4U);
    EXPECT_EQ(dataplane::base::as_text(scan.records[2].payload), "gamma");
    ASSERT_EQ(scan.frames.size(), 2U);
    EXPECT_EQ(scan.frames[0].records_valid, 3U);
}

TEST(SegmentScan, OneDamagedPayloadCostsOneRecord) {
    SegmentImage segment = two_frames();
    segment.image[segment.record_offsets[1] + 4000] ^= std::byte{4};
    const SegmentScan scan = segment.scan();
    EXPECT_EQ(scan.records.size(), 3U);
    EXPECT_EQ(scan.frames[0].records_valid, 2U);
}

TEST(SegmentScan, DamagedRecordHeaderDoesNotHideItsNeighbours) {
    SegmentImage segment = two_frames();
    segment.image[segment.record_offsets[1] + 12] ^= std::byte{0x40}; // its length
    const SegmentScan scan = segment.scan();
    EXPECT_EQ(scan.records.size(), 3U);
}

TEST(SegmentScan, DamagedFrameHeaderDoesNotHideItsRecords) {
    SegmentImage segment = two_frames();
    segment.image[segment.frame_offsets[0]] ^= std::byte{1};
    const SegmentScan scan = segment.scan();
    EXPECT_EQ(scan.records.size(), 4U);
    EXPECT_EQ(scan.frames.size(), 1U);
}

TEST(SegmentScan, LostSegmentHeadersAreMadeUpForByFrames) {
    SegmentImage segment = two_frames();
    std::fill_n(segment.image.begin(), segment_header_bytes, std::byte{0x5A});
    EXPECT_EQ(segment.scan().records.size(), 4U);
}

TEST(SegmentScan, BytesOfAnEarlierGenerationAreNotRecords) {
    SegmentImage segment = two_frames();
    for (std::uint32_t copy = 0; copy < segment_header_copies; ++copy) {
        encode_segment_header(
            std::span{segment.image}.subspan(copy * block_bytes).first<block_bytes>(),
            {.pool = pool, .shard = 1, .slot = 4, .segment_seq = 78}, copy);
    }
    EXPECT_TRUE(segment.scan().records.empty());
}

TEST(SegmentScan, BytesThatLandedElsewhereAreNotRecords) {
    SegmentImage segment = two_frames();
    const auto from = segment.image.begin() + segment.frame_offsets[1];
    std::copy_n(from, block_bytes, segment.image.begin() + 40960);
    std::fill_n(from, block_bytes, std::byte{0});
    EXPECT_EQ(segment.scan().records.size(), 3U);
}

} // namespace
