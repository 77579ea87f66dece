// spool_image_fuzz.cc: whatever a pool holds, it opens or is refused, and a queue that opened can be used.
//
// A pool written by the queue itself is damaged as the input says: eight bytes an edit, most of them with the
// checksums put right again, as a disk that holds nonsense written by ourselves would have it. Then the real
// recovery opens it on a disk in memory, everything that is found is read, and mail goes in and out.
#include "dataplane/base/check.h"
#include "queue/codec.h"
#include "queue/disk/crc32c.h"
#include "queue/segment_scan.h"
#include "tests/queue/spool_world.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using namespace queue;
using namespace std::chrono_literals;
using tests::World;

struct Structure {
    enum class Kind : std::uint8_t { superblock, segment_header, frame, record };
    Kind kind = Kind::superblock;
    std::uint64_t begin = 0;   // in the image
    std::uint32_t copy = 0;    // of a superblock or segment header
    std::uint32_t offset = 0;  // in its segment
    std::uint32_t payload = 0; // bytes
    std::uint64_t seq = 0;
};

struct Base {
    std::vector<std::byte> image;
    std::uint32_t seed = 0;
    std::vector<Structure> structures;
};

tests::SimDiskOptions disk_options() {
    tests::SimDiskOptions options;
    options.bytes = 3U << 20;
    options.latency_min = options.latency_max = std::chrono::microseconds{1};
    return options;
}

QueueOptions queue_options() {
    QueueOptions options = tests::small_options();
    options.resident_bytes_max = 4U << 20;
    options.checkpoint_bytes = 64U << 10;
    return options;
}

/// Messages in every state, a body in chunks, a checkpoint, and a log behind it.
std::vector<std::byte> written() {
    World world{disk_options(), queue_options()};
    CHECK(world.open().value().has_value());
    world.sink();
    std::mt19937_64 random{3};
    for (std::size_t i = 0; i < 24; ++i) {
        const std::size_t bytes = i == 9 ? 260'000 : 40 + i * 700;
        CHECK(world.submit(tests::random_body(random, bytes), "P: 1\r\n", 1 + i % 3).has_value());
        static_cast<void>(world.run_until([&] { return !world.ready.empty(); }, 1s));
        if (world.ready.empty()) continue;
        MessageRef message = std::move(world.ready.front());
        world.ready.pop_front();
        if (i % 3 == 0) {
            world.queue->defer(std::move(message), world.loop.wall_now() + 1h, "451 later");
        } else if (i % 3 == 1) {
            world.deliver(std::move(message));
        } else {
            world.queue->hold(std::move(message));
        }
    }
    static_cast<void>(world.sync());
    world.run_for(1s);
    return world.crash();
}

Base make_base() {
    Base base{.image = written(), .seed = 0, .structures = {}};
    const std::span<const std::byte> bytes = base.image;
    Superblock superblock;
    for (std::uint32_t copy = 0; copy < superblock_copies; ++copy) {
        const std::uint64_t at = copy * block_bytes;
        auto decoded = decode_superblock(bytes.subspan(at).first<block_bytes>(), copy);
        if (decoded) superblock = *decoded;
        base.structures.push_back({.begin = at, .copy = copy});
    }
    base.seed = pool_seed(superblock.pool, superblock.shard);
    for (std::uint32_t slot = 0; slot < superblock.segment_count; ++slot) {
        const std::uint64_t end = std::uint64_t{slot + 1} * superblock.segment_bytes;
        const std::uint64_t begin =
            slot == 0 ? superblock_area_bytes : end - superblock.segment_bytes;
        const SegmentScan scan = scan_segment(bytes.subspan(begin, end - begin), superblock.pool,
                                              superblock.shard, slot);
        if (scan.segment_seq == 0) continue;
        using Kind = Structure::Kind;
        for (std::uint32_t copy = 0; copy < segment_header_copies; ++copy)
            base.structures.push_back(
                {.kind = Kind::segment_header, .begin = begin + copy * block_bytes, .copy = copy});
        for (const FoundFrame& frame : scan.frames)
            base.structures.push_back({.kind = Kind::frame,
                                       .begin = begin + frame.header.offset,
                                       .offset = frame.header.offset,
                                       .seq = scan.segment_seq});
        for (const FoundRecord& record : scan.records)
            base.structures.push_back({.kind = Kind::record,
                                       .begin = begin + record.offset,
                                       .offset = record.offset,
                                       .payload = record.header.payload_bytes,
                                       .seq = scan.segment_seq});
    }
    return base;
}

template <class Value>
void put(std::span<std::byte> bytes, std::size_t at, Value value) {
    std::memcpy(bytes.data() + at, &value, sizeof value);
}

/// Makes the checksums of a structure fit what it holds now.
void seal(const Base& base, std::span<std::byte> image, const Structure& structure) {
    const std::span<std::byte> bytes = image.subspan(structure.begin);
    const RecordSeeds seeds = record_seeds(base.seed, structure.seq, structure.offset);
    switch (structure.kind) {
    case Structure::Kind::superblock:
    case Structure::Kind::segment_header:
        put(bytes, 8, crc32c(structure.copy + 1, bytes.first<block_bytes>().subspan(12)));
        break;
    case Structure::Kind::frame:
        put(bytes, 4, crc32c(seeds.header, bytes.subspan(8, frame_header_bytes - 8)));
        break;
    case Structure::Kind::record: {
        std::uint32_t payload = 0;
        std::memcpy(&payload, bytes.data() + 12, sizeof payload);
        payload = static_cast<std::uint32_t>(
            std::min<std::size_t>(payload, bytes.size() - record_header_bytes));
        put(bytes, 4, crc32c(seeds.payload, bytes.subspan(record_header_bytes, payload)));
        put(bytes, 0, crc32c(seeds.header, bytes.subspan(4, record_header_bytes - 4)));
        break;
    }
    }
}

void edit(const Base& base, std::vector<std::byte>& image, std::span<const std::byte> input) {
    std::array<std::uint8_t, 8> word{};
    std::memcpy(word.data(), input.data(), word.size());
    const std::uint32_t what = word[0];
    const Structure& structure =
        base.structures[(word[1] | std::uint32_t{word[2]} << 8) % base.structures.size()];
    const std::uint32_t where = word[3] | std::uint32_t{word[4]} << 8;
    const std::uint64_t value =
        word[5] | std::uint64_t{word[6]} << 8 |
        (word[7] < 128 ? std::uint64_t{word[7]} << 16 : ~std::uint64_t{0} << (word[7] % 48));
    const std::size_t blocks = image.size() / block_bytes;
    switch (what % 8) {
    case 0: // a byte anywhere
        image[(std::uint64_t{where} << 5 | word[5]) % image.size()] ^= std::byte{word[6]};
        break;
    case 1: // a block that went astray
        std::copy_n(image.begin() + static_cast<std::ptrdiff_t>(where % blocks * block_bytes),
                    block_bytes,
                    image.begin() + static_cast<std::ptrdiff_t>(value % blocks * block_bytes));
        break;
    case 2: // one that is gone
        std::fill_n(image.begin() + static_cast<std::ptrdiff_t>(where % blocks * block_bytes),
                    block_bytes, std::byte{0});
        break;
    default: { // a number in a structure, and checksums that fit
        std::uint32_t length = frame_header_bytes;
        if (structure.kind == Structure::Kind::record)
            length = record_header_bytes + structure.payload;
        if (structure.kind == Structure::Kind::superblock) length = 160;
        if (structure.kind == Structure::Kind::segment_header) length = 128;
        const std::size_t width = std::size_t{1} << (what / 8 % 4);
        const std::size_t at = structure.begin + where % length / width * width;
        if (at + width > image.size()) break;
        std::memcpy(image.data() + at, &value, width);
        const std::uint64_t copies =
            structure.kind == Structure::Kind::superblock ? superblock_copies : 1;
        for (std::uint32_t copy = 0; copy < copies; ++copy) {
            Structure target = structure;
            if (copies > 1) { // one alone does not count
                target = base.structures[copy];
                std::memcpy(image.data() + target.begin + (at - structure.begin), &value, width);
            }
            seal(base, image, target);
        }
        break;
    }
    }
}

/// Reads a message with its content; whatever a record says of its length, that ends by its time.
base::Task<void> read(World* world, MessageId id, bool* done) {
    const base::Deadline deadline = base::Deadline::in(world->loop, 60s);
    auto message = co_await world->queue->load(id, deadline);
    if (message) {
        ContentReader reader{*world->queue, std::move(*message)};
        while (reader.bytes_left() > 0) {
            auto piece = co_await reader.next(deadline);
            if (!piece) break;
        }
    }
    *done = true;
}

base::Task<void> send(World* world, bool* done) {
    auto draft = world->queue->begin(16);
    if (draft) {
        draft->envelope().set_sender("sender@example.org");
        draft->envelope().add_recipient("user@example.net", "", notify_failure);
        static_cast<void>(co_await draft->commit("", base::Deadline::in(world->loop, 60s)));
    }
    *done = true;
}

/// Everything a relay does with a queue; what fails must fail as an error.
void use(World& world) {
    std::vector<MessageId> ids;
    world.queue->for_each({}, [&](EntryRef, const Entry& entry) {
        ids.push_back(entry.id);
        return true;
    });
    for (const MessageId id : ids) {
        bool done = false;
        world.start(read(&world, id, &done));
        CHECK(world.run_until([&] { return done; }));
    }
    world.sink();
    bool sent = false;
    world.start(send(&world, &sent));
    CHECK(world.run_until([&] { return sent; }));
    world.run_for(10s);
    for (int round = 0; round < 3; ++round) {
        while (!world.ready.empty()) {
            MessageRef message = std::move(world.ready.front());
            world.ready.pop_front();
            world.deliver(std::move(message));
        }
        world.run_for(1h);
    }
    static_cast<void>(world.run(world.queue->close(base::Deadline::in(world.loop, 60s))));
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const Base base = make_base();
    constexpr std::size_t edits_max = 32;
    std::span<const std::byte> input = std::as_bytes(std::span{data, size});
    std::vector<std::byte> image = base.image;
    for (std::size_t i = 0; i < edits_max && input.size() >= 8; ++i) {
        edit(base, image, input);
        input = input.subspan(8);
    }
    World world{disk_options(), queue_options(), std::move(image)};
    const auto opened = world.open();
    CHECK(opened.has_value());
    if (!*opened) {
        CHECK(!world.report.problem.empty());
        return 0;
    }
    use(world);
    return 0;
}
