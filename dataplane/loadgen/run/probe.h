// probe.h: what a relay is asked beside the load: its greeting, and what it tells of itself over HTTP.
//
// Scope      One short question on a connection of its own; kernel sockets only.
// Threading  Blocks, for as long as is said below: not on a thread that measures latency.
// Failure    greeting_of() and metrics_of() throw std::runtime_error with a text for a person.
#pragma once

#include "dataplane/base/address.h"
#include "dataplane/loadgen/run/result.h"

#include <string>
#include <string_view>
#include <vector>

namespace dataplane::loadgen {

/// The relay's first line, and the proof that somebody is there. At most 10 s.
[[nodiscard]] std::string greeting_of(const base::SocketAddress& target);

/// The answer to GET /metrics, without its head. At most a second for each step of it.
[[nodiscard]] std::string metrics_of(const base::SocketAddress& address);

/// CPU seconds by room, as Millrace's /metrics tells them; empty when it does not.
[[nodiscard]] std::vector<NamedValue> rooms_in(std::string_view metrics);

} // namespace dataplane::loadgen
