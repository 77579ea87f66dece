// spool_sim: lives of a spool on a simulated disk, seed by seed; built a second time with seeded defects.
#include "tests/queue/spool_sim.h"

#include <charconv>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>

namespace {

constexpr const char* usage =
    R"(Usage: spool_sim [--seed N | --seeds A..B | --exhaustive] [--mirror] [--stride N] [--every N]
                 [--progress]

Runs a spool on a simulated disk: configuration, load, faults, crashes and restarts are drawn from a seed, and
after each boot an oracle holds what is found against what was promised. Prints what failed, and one line in
the end.

  --seed N       this seed alone
  --seeds A..B   these, both included (default: 1..200)
  --mirror       on two devices
  --exhaustive   scripts instead: a crash at every event, in every recovery, an error at every operation
  --stride N     only every N-th point of those
  --every N      a recovery is crashed at each of its own events after every N-th of the script (default: 7)
  --progress     a line for every thousand seeds
)";

[[nodiscard]] bool parse_number(std::string_view text, std::uint64_t& value) {
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
    return parsed.ec == std::errc{} && parsed.ptr == text.data() + text.size();
}

struct Arguments {
    std::uint64_t first = 1, last = 200, stride = 1, every = 7;
    bool exhaustive = false, progress = false;
    tests::Devices devices = tests::Devices::one;
};

[[nodiscard]] bool parse(int count, char** words, Arguments& arguments) {
    for (int i = 1; i < count; ++i) {
        const std::string_view word = words[i];
        if (word == "--exhaustive") {
            arguments.exhaustive = true;
        } else if (word == "--mirror") {
            arguments.devices = tests::Devices::two;
        } else if (word == "--progress") {
            arguments.progress = true;
        } else if (i + 1 == count) {
            return false;
        } else if (word == "--seed") {
            if (!parse_number(words[++i], arguments.first)) return false;
            arguments.last = arguments.first;
        } else if (word == "--stride") {
            if (!parse_number(words[++i], arguments.stride) || arguments.stride == 0) return false;
        } else if (word == "--every") {
            if (!parse_number(words[++i], arguments.every) || arguments.every == 0) return false;
        } else if (word == "--seeds") {
            const std::string_view value = words[++i];
            const std::size_t dots = value.find("..");
            if (dots == std::string_view::npos ||
                !parse_number(value.substr(0, dots), arguments.first) ||
                !parse_number(value.substr(dots + 2), arguments.last)) {
                return false;
            }
        } else {
            return false;
        }
    }
    return true;
}

[[nodiscard]] unsigned long long number(std::uint64_t value) {
    return value;
}

void print(const tests::SimResult& total, const char* what) {
    std::printf(
        "%s: %llu boots, %llu disk operations, %llu acknowledged, %llu damaged and reported\n",
        what, number(total.boots), number(total.operations), number(total.acknowledged),
        number(total.lost_and_told));
    if (total.unanswered != 0)
        std::printf("%s: %llu times a half did not answer and was left behind\n", what,
                    number(total.unanswered));
}

bool run_seeds(const Arguments& arguments) {
    std::uint64_t failed = 0;
    tests::SimResult total;
    for (std::uint64_t seed = arguments.first; seed <= arguments.last; ++seed) {
        std::fprintf(stderr, "seed %llu\r", number(seed)); // the last one when it aborts
        tests::SimResult result = tests::run_spool_seed(seed, arguments.devices);
        if (seed % 64 == 0 && tests::run_spool_seed(seed, arguments.devices).trace != result.trace)
            result.violations.emplace_back("a second run of the same seed went another way");
        for (const std::string& violation : result.violations)
            std::printf("seed %llu: %s\n", number(seed), violation.c_str());
        if (!result.violations.empty()) ++failed;
        total.add(result);
        if (arguments.progress && seed % 1000 == 0) {
            std::printf("%llu seeds, %llu failed\n", number(seed), number(failed));
            std::fflush(stdout);
        }
    }
    print(total, "spool_sim");
    std::printf("spool_sim: %llu seeds passed, %llu failed\n",
                number(arguments.last - arguments.first + 1 - failed), number(failed));
    return failed == 0;
}

bool run_exhaustive(std::uint64_t stride, std::uint64_t every) {
    bool good = true;
    const auto report = [&](const char* what, const tests::SimResult& result) {
        for (const std::string& violation : result.violations)
            std::printf("%s: %s\n", what, violation.c_str());
        good = good && result.violations.empty();
        print(result, what);
        std::fflush(stdout);
    };
    using enum tests::Commit;
    report("a crash at every event", tests::run_crash_at_every_event(stride, dsync));
    report("a crash in every recovery", tests::run_crash_in_every_recovery(stride, every, dsync));
    report("an error at every operation", tests::run_error_at_every_operation(stride, dsync));
    report("by flush: a crash at every event", tests::run_crash_at_every_event(stride, flush));
    report("by flush: a crash in every recovery",
           tests::run_crash_in_every_recovery(stride, every, flush));
    report("by flush: an error at every operation",
           tests::run_error_at_every_operation(stride, flush));
    report("a device that lies", tests::run_lying_device(400 / stride + 1));
    report("one damaged record", tests::run_one_damaged_record(400 / stride + 1));
    return good;
}

} // namespace

int main(int count, char** words) {
    if (count > 1 && std::strcmp(words[1], "--help") == 0) {
        std::fputs(usage, stdout);
        return 0;
    }
    Arguments arguments;
    if (!parse(count, words, arguments)) {
        std::fputs(usage, stderr);
        return 2;
    }
    const bool good = arguments.exhaustive ? run_exhaustive(arguments.stride, arguments.every)
                                           : run_seeds(arguments);
    return good ? 0 : 1;
}
