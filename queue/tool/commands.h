// commands.h: what millrace-spool does, one function for each command.
//
// Scope      Each opens the pool, does its work, prints to the streams given, and returns the exit code.
// Threading  One thread.
// Failure    One sentence that names the pool, and the remedy where there is one, on `err`.
#pragma once

#include "queue/entry.h"

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

namespace queue::tool {

enum ExitCode : int {
    exit_ok = 0,
    exit_damage = 1,  // found, or what was asked for could not be done in full
    exit_no_pool = 2, // it cannot be opened, or the command line is wrong
};

/// Where results and remarks go; progress is shown on `err` when that is a terminal.
struct Console {
    std::ostream& out;
    std::ostream& err;
    bool terminal = false;
};

struct InspectOptions {
    std::string pool, key; // key, here and below: a file or env:NAME, for an encrypted pool
    std::string mirror;    // here and below: the other half of its mirror; empty: not at hand
    bool segments = false, messages = false, json = false;
    bool lock = true; // false: look although a relay is running
    std::optional<MessageId> record;
};
[[nodiscard]] int inspect(const InspectOptions& options, const Console& console);

struct VerifyOptions {
    std::string pool, key, mirror;
    bool json = false;
};
[[nodiscard]] int verify(const VerifyOptions& options, const Console& console);

struct ExportOptions {
    std::string pool, key, mirror;
    bool stale = false; // although the pool is a half that has missed mail
    std::string folder;
    std::vector<MessageId> messages; // empty: all
    std::string domain, sender;      // empty: any
    bool finished = false;           // also what has ended and is still there
};
[[nodiscard]] int export_messages(const ExportOptions& options, const Console& console);

struct UpgradeOptions {
    std::string pool, key;
    std::string to;                  // empty: in its place
    std::uint64_t pool_bytes = 0;    // 0: as it is
    std::uint32_t segment_bytes = 0; // 0: as it is
};
[[nodiscard]] int upgrade(const UpgradeOptions& options, const Console& console);

struct AttachOptions {
    std::string pool, key, mirror;
    std::string state_dir;
    std::string daemon; // path of millraced; empty: beside this program, then in the PATH
    bool dry_run = false;
};
/// Looks whether the pool can be adopted, and then becomes `millraced --attach`: returns only on failure.
[[nodiscard]] int attach(const AttachOptions& options, const Console& console);

} // namespace queue::tool
