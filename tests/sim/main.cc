// relay_sim: runs the whole relay in a simulated world, seed by seed.
#include "tests/sim/world.h"

#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string_view>

namespace {

constexpr const char* usage =
    R"(Usage: relay_sim [--seed N | --seeds A..B | --count N] [--trace] [--twice]

Runs the whole relay in a simulated world: network, disk, clock, names, destinations and clients are drawn
from a seed, and so are crashes and faults. Prints one line for each seed that fails, and one in the end.

  --seed N      this seed alone
  --seeds A..B  these, both included
  --count N     seeds 1 to N (default: 200)
  --twice       each seed twice: both runs must leave the same trace (otherwise every 16th is)
  --trace       print everything that can be seen from outside, as it happens
)";

struct Arguments {
    std::uint64_t first = 1, last = 200;
    bool trace = false, twice = false;
};

[[nodiscard]] bool parse_number(std::string_view text, std::uint64_t& value) {
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
    return parsed.ec == std::errc{} && parsed.ptr == text.data() + text.size();
}

[[nodiscard]] bool parse(int count, char** words, Arguments& arguments) {
    for (int i = 1; i < count; ++i) {
        const std::string_view word = words[i];
        if (word == "--trace") {
            arguments.trace = true;
            continue;
        }
        if (word == "--twice") {
            arguments.twice = true;
            continue;
        }
        if (i + 1 == count) return false;
        const std::string_view value = words[++i];
        if (word == "--seed") {
            if (!parse_number(value, arguments.first)) return false;
            arguments.last = arguments.first;
        } else if (word == "--count") {
            arguments.first = 1;
            if (!parse_number(value, arguments.last)) return false;
        } else if (word == "--seeds") {
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

} // namespace

int main(int count, char** words) {
    using tests::sim::RunResult;
    if (count > 1 && std::strcmp(words[1], "--help") == 0) {
        std::fputs(usage, stdout);
        return 0;
    }
    Arguments arguments;
    if (!parse(count, words, arguments)) {
        std::fputs(usage, stderr);
        return 2;
    }
    std::uint64_t passed = 0, failed = 0, turns = 0;
    std::chrono::seconds simulated{};
    tests::sim::Totals totals;
    for (std::uint64_t seed = arguments.first; seed <= arguments.last; ++seed) {
        std::printf("seed %llu\r",
                    static_cast<unsigned long long>(seed)); // the last one when it aborts
        std::fflush(stdout);
        RunResult result = tests::sim::run_world(seed, arguments.trace);
        if (arguments.twice || seed % 16 == 0) {
            const RunResult again = tests::sim::run_world(seed, false);
            if (again.trace_hash != result.trace_hash) {
                result.violations.emplace_back("a second run of the same seed left another trace");
            }
        }
        totals.add(result.totals);
        turns += result.turns;
        simulated += result.simulated;
        if (result.violations.empty()) {
            ++passed;
        } else {
            ++failed;
            for (const std::string& violation : result.violations) {
                std::printf("seed %llu: %s\n", static_cast<unsigned long long>(seed),
                            violation.c_str());
            }
        }
        if (arguments.first == arguments.last) {
            std::printf("seed %llu: trace %016llx\n", static_cast<unsigned long long>(seed),
                        static_cast<unsigned long long>(result.trace_hash));
        }
    }
    std::printf(
        "%s turns=%llu simulated_hours=%lld\n", totals.to_string().c_str(),
        static_cast<unsigned long long>(turns),
        static_cast<long long>(std::chrono::duration_cast<std::chrono::hours>(simulated).count()));
    std::printf("sim: %llu seeds passed, %llu failed\n", static_cast<unsigned long long>(passed),
                static_cast<unsigned long long>(failed));
    return failed == 0 ? 0 : 1;
}
