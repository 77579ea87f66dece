// policy_compiler.h: a Config and the accounts become a snapshot file that millraced picks up.
//
// Scope      Screening patterns to databases, accounts into the policy, FlatBuffer, checksum,
//            publication by rename. Reading a snapshot back is the data plane's
//            (dataplane/policy/snapshot.h).
// Threading  Any, but one publisher per file at a time: the version is the file's own plus one.
// Failure    Nothing is published in part: the old file stays whole until the new one is durable.
#pragma once

#include "control/accounts.h"
#include "control/config.h"
#include "dataplane/message/dkim/key_set.h"

#include <cstdint>
#include <expected>
#include <span>
#include <string>
#include <vector>

namespace control {

/// Compiles config.patterns into policy.screen. Errors name the rule file, its line and Hyperscan's
/// reason.
[[nodiscard]] std::vector<ConfigError> compile_screening(Config& config);

/// The [[dkim]] tables as the signing side has them.
[[nodiscard]] std::vector<dataplane::message::dkim::KeyTable>
dkim_tables(const schema::PolicyT& policy);

/// Reads every key file as millraced will; no key goes into the snapshot. Errors name the line of the
/// table and the file; warns of files that others may read.
[[nodiscard]] std::vector<ConfigError> check_dkim_keys(const Config& config,
                                                       std::vector<std::string>& warnings);

/// Puts the accounts into the policy; returns what an operator should know (a source that is not
/// there).
[[nodiscard]] std::vector<std::string> add_accounts(schema::PolicyT& policy,
                                                    std::span<const Account> accounts);

/// The file's bytes: header, checksum, FlatBuffer.
[[nodiscard]] std::string make_snapshot(const schema::PolicyT& policy);

/// The version in the header of the file at `path`; 0 when there is none that could be read.
[[nodiscard]] std::uint64_t published_version(const std::string& path);

/// Gives the policy the next version and replaces the file. Returns the version, or a sentence.
[[nodiscard]] std::expected<std::uint64_t, std::string> publish_snapshot(schema::PolicyT& policy,
                                                                         const std::string& path);

} // namespace control
