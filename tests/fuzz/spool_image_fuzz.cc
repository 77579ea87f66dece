// spool_image_fuzz.cc: whatever a pool holds, it opens or is refused, and a queue that opened can be used.
//
// A pool written by the queue itself is damaged as the input says: eight bytes an edit, most of them with the
// checksums put right again, as a disk that holds nonsense written by ourselves would have it. Then the real
// recovery opens it on a disk in memory, everything that is found is read, and mail goes in and out.
#include "dataplane/base/check.h"
#include "tests/fuzz/pool_structures.h"
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
using tests::PoolStructure;
using tests::World;

struct Base {
    std::vector<std::byte> image;
    tests::PoolStructures structures;
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
    Base base{.image = written(), .structures = {}};
    base.structures = tests::structures_of(base.image);
    return base;
}

void edit(const Base& base, std::vector<std::byte>& image, std::span<const std::byte> input) {
    std::array<std::uint8_t, 8> word{};
    std::memcpy(word.data(), input.data(), word.size());
    const std::uint32_t what = word[0];
    const std::vector<PoolStructure>& structures = base.structures.all;
    const PoolStructure& structure =
        structures[(word[1] | std::uint32_t{word[2]} << 8) % structures.size()];
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
        const std::size_t width = std::size_t{1} << (what / 8 % 4);
        const std::size_t at = structure.begin + where % structure.length() / width * width;
        if (at + width > image.size()) break;
        std::memcpy(image.data() + at, &value, width);
        const std::uint64_t copies =
            structure.kind == PoolStructure::Kind::superblock ? superblock_copies : 1;
        for (std::uint32_t copy = 0; copy < copies; ++copy) {
            PoolStructure target = structure;
            if (copies > 1) { // one alone does not count
                target = structures[copy];
                std::memcpy(image.data() + target.begin + (at - structure.begin), &value, width);
            }
            tests::seal(base.structures.seed, image, target);
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
