// parser.h: reads packetdrill scripts.
//
// Scope      Text to script.h's values. What a system call's arguments mean is the executor's.
// Threading  None.
// Failure    The first mistake ends it, with its line.
#pragma once

#include "tests/dataplane/net/packetdrill/script.h"

#include <expected>
#include <string>
#include <string_view>

namespace tests::packetdrill {

struct ParseError {
    unsigned line = 0;
    std::string message;
};

[[nodiscard]] std::expected<Script, ParseError> parse_script(std::string_view text,
                                                             std::string file);

} // namespace tests::packetdrill
