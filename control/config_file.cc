#include "control/config_file.h"

#include <array>
#include <filesystem>
#include <fstream>

namespace control {
namespace {

constexpr std::size_t config_bytes_max = 16U << 20;

} // namespace

std::optional<toml::table> parse_toml(std::string_view text, Errors& errors) {
    if (text.size() > config_bytes_max) {
        errors.add(0, "", "is larger than 16 MiB; that is no configuration");
        return std::nullopt;
    }
    try {
        return toml::parse(text, errors.file());
    } catch (const toml::parse_error& error) {
        errors.add(error.source().begin.line, "",
                   "not TOML: " + std::string{error.description()} +
                       "; mend the syntax, the rest was not read");
        return std::nullopt;
    }
}

std::optional<std::string> read_file(const std::string& path, Errors& errors) {
    std::error_code failure;
    if (!std::filesystem::is_regular_file(path, failure)) {
        errors.add(0, "", "no such file; give the path of a TOML file that is there");
        return std::nullopt;
    }
    std::ifstream stream(path, std::ios::binary);
    std::string text;
    if (stream) {
        std::array<char, 65536> part;
        while (text.size() <= config_bytes_max &&
               (stream.read(part.data(), part.size()), stream.gcount() > 0)) {
            text.append(part.data(), static_cast<std::size_t>(stream.gcount()));
        }
    }
    if (!stream.eof() && text.size() <= config_bytes_max) {
        errors.add(0, "", "cannot be read; let the user that runs this read it");
        return std::nullopt;
    }
    return text;
}

} // namespace control
