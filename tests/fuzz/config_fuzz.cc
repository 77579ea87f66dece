// config_fuzz.cc: any text is a configuration, or a rule file, or a list of readable errors.
//
// The first byte chooses which of the two. Whatever has no error must also become a snapshot.

#include "control/config.h"
#include "control/policy_compiler.h"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    if (text.front() == 'R') {
        control::ConfigResult result = control::parse_config("", "/nowhere/fuzz.toml");
        control::parse_rules(text.substr(1), "/nowhere/rules.toml", result.config, result.errors);
        if (result.config.patterns.size() != result.config.policy.screen->rules.size())
            std::abort();
        return 0;
    }
    const control::ConfigResult result = control::parse_config(text, "/nowhere/fuzz.toml");
    for (const control::ConfigError& error : result.errors) {
        if (error.text.empty() || error.to_string().find('\n') != std::string::npos) std::abort();
    }
    if (result.errors.empty() && control::make_snapshot(result.config.policy).empty()) std::abort();
    return 0;
}
