// snapshot.h: reads a published policy snapshot and believes none of it before it is checked.
//
// Scope      File or bytes in, a whole Policy or a reason out: header, checksum, FlatBuffers
//            verifier, then every value (addresses, ranges, references between tables). Who
//            publishes it, and when to look again, is elsewhere (control/policy_compiler.h,
//            control_link.h).
// Threading  Any thread but a shard: it reads files and allocates.
// Failure    SnapshotFailure with a text for the operator. The caller keeps the policy it has.
#pragma once

#include "dataplane/policy/policy.h"

#include <cstddef>
#include <expected>
#include <span>
#include <string>
#include <string_view>

namespace dataplane::policy {

enum class SnapshotError : std::uint8_t {
    missing,             // no such file: control has not published yet
    unreadable,          // open or read failed
    too_large,           // over snapshot_bytes_max
    truncated,           // shorter or longer than its header says
    bad_magic,           // not a snapshot
    unsupported_version, // written by another release
    checksum_mismatch,   // damaged
    malformed,           // the FlatBuffer does not verify, or a whole table is missing
    invalid_value,       // well-formed, but a value makes no sense
};
[[nodiscard]] std::string_view to_string(SnapshotError error) noexcept;

struct SnapshotFailure {
    SnapshotError error;
    std::string text; // one sentence, names the file or the field
};

[[nodiscard]] std::expected<PolicyPtr, SnapshotFailure>
parse_snapshot(std::span<const std::byte> file);
[[nodiscard]] std::expected<PolicyPtr, SnapshotFailure> load_snapshot(const std::string& path);

} // namespace dataplane::policy
