// message_json.h: a message's envelope and what has become of it, as the JSON beside its .eml.
//
// Heavy: includes a JSON library. For .cc files of this folder that print one.
#pragma once

#include "queue/tool/read_message.h"

#include <nlohmann/json_fwd.hpp>

namespace queue::tool {

/// \param queued  whether the relay would still work on it
[[nodiscard]] nlohmann::ordered_json message_json(MessageId id, const StoredMessage& stored,
                                                  const ReadMessage& message, bool queued);
/// Bytes of addresses and errors come from outside: what is no UTF-8 is replaced.
[[nodiscard]] std::string dump(const nlohmann::ordered_json& json);

} // namespace queue::tool
