// run_main.cc: `packetdrill_run [--strict] FILE...`: plays scripts and prints a line for each.

#include "tests/dataplane/net/packetdrill/executor.h"

#include <cstdio>
#include <string_view>

int main(int count, char** arguments) {
    using tests::packetdrill::RunResult;
    unsigned passed = 0, failed = 0, skipped = 0;
    tests::packetdrill::RunOptions options;
    for (int i = 1; i < count; ++i) {
        if (std::string_view(arguments[i]) == "--strict") {
            options.strict_end = true;
            continue;
        }
        const RunResult result = tests::packetdrill::run_file(arguments[i], options);
        switch (result.outcome) {
        case RunResult::Outcome::passed:
            ++passed;
            std::printf("passed  %s\n", arguments[i]);
            break;
        case RunResult::Outcome::failed:
            ++failed;
            std::printf("FAILED  %s\n", result.message.c_str());
            break;
        case RunResult::Outcome::skipped:
            ++skipped;
            std::printf("skipped %s\n", result.message.c_str());
            break;
        }
        for (const std::string& note : result.notes)
            std::printf("        note: %s\n", note.c_str());
    }
    std::printf("%u passed, %u failed, %u skipped\n", passed, failed, skipped);
    return failed == 0 ? 0 : 1;
}
