// command_merge.h: one JSON reply out of the shards' replies to a command.
//
// Scope      Numbers are summed, arrays joined and cut to the limit, objects merged; of anything
//            else the first shard's stays.
// Failure    A reply that is not a JSON object, or one that carries "error", refuses the whole.
#pragma once

#include <cstdint>
#include <expected>
#include <span>
#include <string>

namespace dataplane::policy {

/// \param limit  of elements in each joined array; 0: none
/// Returns the merged object as text, or the reason.
[[nodiscard]] std::expected<std::string, std::string>
merge_replies(std::span<const std::string> replies, std::uint32_t limit);

} // namespace dataplane::policy
