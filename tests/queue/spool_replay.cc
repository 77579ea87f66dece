// spool_replay.cc: makes crashes of a recorded run again, opens what each left, and looks whether every
// promise is kept.
//
// Exit 1 when an image lost a message, damaged one, or would not open, 2 when the command line is wrong.
#include "dataplane/loadgen/content_check.h"
#include "tests/queue/crash_images.h"
#include "tests/queue/spool_world.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <expected>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace {

using namespace tests;

constexpr std::size_t contents_read_max = 32; // of each image

constexpr const char* usage =
    "usage: spool_replay JOURNAL [--images N] [--seed S]\n"
    "\n"
    "Makes crashes of a recorded run again and looks whether every promise is kept. JOURNAL is\n"
    "FOLDER/shard-K.journal of a relay that was started with a new spool and --spool-journal "
    "FOLDER,\n"
    "and took mail from millrace-bench source.\n"
    "\n"
    "  --images N  crashes to make, each at a moment of its own (1000)\n"
    "  --seed S    of the moments, and of what each leaves (1)\n"
    "  --help      this\n"
    "\n"
    "Prints what was found as JSON. Exit codes: 0 all promises are kept, 1 one is not or there "
    "was\n"
    "nothing to look for, 2 the command line is wrong.\n";

struct Arguments {
    std::string journal;
    std::uint64_t images = 1000, seed = 1;
};

std::optional<std::uint64_t> number_of(std::string_view text) {
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return number;
}

/// The error is a sentence.
std::expected<Arguments, std::string> parse(std::span<char* const> words) {
    Arguments arguments;
    for (std::size_t i = 0; i < words.size(); ++i) {
        const std::string word = words[i];
        if (word == "--images" || word == "--seed") {
            if (++i == words.size()) return std::unexpected(word + " needs a number");
            const auto number = number_of(words[i]);
            if (!number) return std::unexpected(word + " " + words[i] + " is no number");
            (word == "--images" ? arguments.images : arguments.seed) = *number;
        } else if (word.starts_with('-')) {
            return std::unexpected("there is no option " + word);
        } else if (!arguments.journal.empty()) {
            return std::unexpected("one JOURNAL at a time: " + word + " is a second");
        } else {
            arguments.journal = word;
        }
    }
    if (arguments.journal.empty()) return std::unexpected(std::string{"JOURNAL is missing"});
    if (arguments.images == 0)
        return std::unexpected(std::string{"--images 0 would look at nothing"});
    return arguments;
}

struct Totals {
    std::uint64_t images = 0, failed = 0;
    std::uint64_t promises = 0;  // looked for
    std::uint64_t contents = 0;  // read and compared with their digests
    std::uint64_t uncertain = 0; // writes that were under way
    std::uint64_t again = 0;     // done with, but their record was not safe yet: delivered twice
    std::uint64_t again_max = 0; // in one image
};

bool content_is_whole(World& world, const queue::MessageRef& message) {
    auto content = world.content(message);
    if (!content) return false;
    dataplane::loadgen::ContentCheck check;
    check.begin();
    check.feed(std::as_bytes(std::span(*content)));
    return check.finish() == dataplane::loadgen::ContentState::whole;
}

/// What is wrong with this image, or nothing.
std::string audit(const CrashImages& images, std::vector<std::byte> image, std::uint64_t seed,
                  Totals& totals) {
    SimDiskOptions disk;
    disk.bytes = image.size();
    disk.latency_min = disk.latency_max = std::chrono::microseconds{1};
    disk.seed = seed;
    World world(disk, queue::QueueOptions{}, std::move(image));
    const auto opened = world.open();
    if (!opened || !*opened) return "does not open: " + world.report.problem;
    if (world.report.records_damaged != 0)
        return std::to_string(world.report.records_damaged) + " records count as damaged";

    std::set<std::uint64_t> found;
    world.queue->for_each({}, [&](queue::EntryRef, const queue::Entry& entry) {
        found.insert(entry.id.value);
        return true;
    });
    for (const std::uint64_t promised : images.promised()) {
        if (!found.contains(promised))
            return "message " + queue::MessageId{promised}.to_string() + " is lost";
    }
    totals.promises += images.promised().size();
    const auto again = static_cast<std::uint64_t>(
        std::ranges::count_if(found, [&](std::uint64_t id) { return images.done().contains(id); }));
    totals.again += again;
    totals.again_max = std::max(totals.again_max, again);

    world.sink();
    static_cast<void>(world.queue->flush({}));
    const std::size_t wanted = std::min(found.size(), contents_read_max);
    world.run_until([&] { return world.ready.size() >= wanted; });
    if (world.ready.size() < wanted) return "messages are there, but do not become ready";
    for (std::size_t i = 0; i < wanted; ++i) {
        if (!content_is_whole(world, world.ready[i]))
            return "message " + world.ready[i]->id.to_string() + " is altered";
    }
    totals.contents += wanted;
    return {};
}

} // namespace

int main(int argc, char** argv) {
    const std::span<char* const> words = std::span{argv, static_cast<std::size_t>(argc)}.subspan(1);
    if (std::ranges::any_of(
            words, [](std::string_view word) { return word == "--help" || word == "-h"; })) {
        std::printf("%s", usage);
        return 0;
    }
    const auto arguments = parse(words);
    if (!arguments) {
        std::fprintf(stderr, "spool_replay: %s; see --help\n", arguments.error().c_str());
        return 2;
    }
    Totals totals;
    try {
        CrashImages images(queue::read_journal(arguments->journal));
        std::mt19937_64 random(arguments->seed);
        std::vector<std::size_t> places(arguments->images);
        for (std::size_t& place : places)
            place = random() % (images.entry_count() + 1);
        std::ranges::sort(places);
        for (const std::size_t place : places) {
            images.advance_to(place);
            totals.uncertain += images.uncertain_writes();
            ++totals.images;
            const std::string fault = audit(images, images.draw(random), arguments->seed, totals);
            if (fault.empty()) continue;
            ++totals.failed;
            std::printf("image %llu, a crash after entry %zu: %s\n",
                        static_cast<unsigned long long>(totals.images), place, fault.c_str());
        }
    } catch (const std::exception& error) {
        std::fprintf(stderr, "spool_replay: %s\n", error.what());
        return 1;
    }
    const auto number = [](std::uint64_t value) { return static_cast<unsigned long long>(value); };
    std::printf(
        "{\"images\": %llu, \"failed\": %llu, \"promises\": %llu, \"contents\": %llu, "
        "\"uncertain_writes\": %llu, \"delivered_again\": %llu, \"delivered_again_max\": %llu}\n",
        number(totals.images), number(totals.failed), number(totals.promises),
        number(totals.contents), number(totals.uncertain), number(totals.again),
        number(totals.again_max));
    return totals.failed == 0 && totals.promises != 0 ? 0 : 1;
}
