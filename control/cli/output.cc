#include "control/cli/output.h"

#include <iostream>

namespace control::cli {

std::string text(const Json& object, const char* key) {
    const auto found = object.find(key);
    if (found == object.end()) return "";
    return found->is_string() ? found->get<std::string>() : found->dump();
}

std::string harmless(std::string line) {
    for (char& byte : line) {
        if (static_cast<unsigned char>(byte) < ' ' || byte == 0x7f) byte = '?';
    }
    return line;
}

int complain(const std::string& why) {
    std::cerr << "millracectl: " << harmless(why) << '\n';
    return exit_failed;
}

int misused(const std::string& why) {
    complain(why);
    return exit_usage;
}

void print(const Json& json) {
    std::cout << json.dump(2, ' ', false, Json::error_handler_t::replace) << '\n';
}

} // namespace control::cli
