// executor.h: plays a script against a Stack of its own, in virtual time.
//
// Scope      Injects, sniffs, calls and compares as packetdrill does; what it does not know (epoll,
//            sendfile, assertions on tcp_info) makes a script skipped, never passed.
// Owns       The clock, the loop, the port, the stack and the sockets of one run.
// Threading  Everything in the caller's thread. Two runs of one script do exactly the same.
// Failure    The first difference ends the run: where, what was expected, what came instead.
#pragma once

#include "tests/dataplane/net/packetdrill/script.h"

#include <cstdint>
#include <string>
#include <vector>

namespace tests::packetdrill {

struct RunOptions {
    /// A packet that the script has not asked for when it ends is an error. packetdrill does not look.
    bool strict_end = false;
};

struct RunResult {
    enum class Outcome : std::uint8_t { passed, failed, skipped };
    Outcome outcome = Outcome::passed;
    std::string message; // "file:line: ..." unless passed
    std::vector<std::string> notes;
};

[[nodiscard]] RunResult run_script(const Script& script, RunOptions options = {});
/// Reads, parses and runs; a parse error is a failure.
[[nodiscard]] RunResult run_file(const std::string& path, RunOptions options = {});

} // namespace tests::packetdrill
