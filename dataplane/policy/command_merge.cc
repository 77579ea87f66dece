#include "dataplane/policy/command_merge.h"

#include <nlohmann/json.hpp>

namespace dataplane::policy {
namespace {

using Json = nlohmann::ordered_json;

void merge_into(Json& whole, const Json& part, std::uint32_t limit) {
    for (const auto& [key, value] : part.items()) {
        if (value.is_array()) {
            Json& joined = whole[key];
            if (joined.is_null()) joined = Json::array();
            if (!joined.is_array()) continue;
            for (const Json& element : value) {
                if (limit != 0 && joined.size() >= limit) break;
                joined.push_back(element);
            }
            continue;
        }
        const auto there = whole.find(key);
        if (there == whole.end()) {
            whole[key] = value;
        } else if (there->is_number_integer() && value.is_number_integer()) {
            *there = there->get<std::int64_t>() + value.get<std::int64_t>();
        } else if (there->is_number() && value.is_number()) {
            *there = there->get<double>() + value.get<double>();
        } else if (there->is_object() && value.is_object()) {
            merge_into(*there, value, limit);
        }
    }
}

} // namespace

std::expected<std::string, std::string> merge_replies(std::span<const std::string> replies,
                                                      std::uint32_t limit) {
    Json whole = Json::object();
    for (const std::string& text : replies) {
        const Json part = Json::parse(text, nullptr, false);
        if (!part.is_object())
            return std::unexpected("a shard answered with something that is not a JSON object");
        if (const auto error = part.find("error"); error != part.end()) {
            return std::unexpected(error->is_string() ? error->get<std::string>() : error->dump());
        }
        merge_into(whole, part, limit);
    }
    return whole.dump(-1, ' ', false, Json::error_handler_t::replace);
}

} // namespace dataplane::policy
