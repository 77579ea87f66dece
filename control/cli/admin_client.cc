#include "control/cli/admin_client.h"

#include <fstream>
#include <httplib.h>

namespace control::cli {
namespace {

constexpr auto connect_limit = std::chrono::seconds{3};
constexpr auto answer_limit = std::chrono::seconds{60}; // a reload compiles thousands of rules

httplib::Headers headers(const std::string& token_file) {
    std::ifstream stream(token_file);
    std::string token;
    std::getline(stream, token);
    if (token.empty()) return {};
    return {{"Authorization", "Bearer " + token}};
}

std::expected<Json, ClientFailure> answer(const httplib::Result& result, const AdminPlace& place) {
    if (!result) {
        const bool refused = result.error() == httplib::Error::Connection;
        return std::unexpected(
            ClientFailure{refused, 0,
                          refused ? "millrace-control does not answer on " + place.host + ":" +
                                        std::to_string(place.port) + ": is it running?"
                                  : "no answer: " + httplib::to_string(result.error()),
                          nullptr});
    }
    Json body = Json::parse(result->body, nullptr, false);
    if (result->status == 200 && !body.is_discarded()) return body;
    ClientFailure failure{false, result->status, "HTTP " + std::to_string(result->status),
                          std::move(body)};
    if (failure.body.is_object() && failure.body.contains("error") &&
        failure.body["error"].is_string()) {
        failure.text = failure.body["error"].get<std::string>();
    }
    if (result->status == 401) failure.text += " (can you read " + place.token_file + "?)";
    return std::unexpected(std::move(failure));
}

httplib::Client client(const AdminPlace& place) {
    httplib::Client made(place.host, place.port);
    made.set_connection_timeout(connect_limit);
    made.set_read_timeout(answer_limit);
    return made;
}

} // namespace

std::expected<Json, ClientFailure> AdminClient::get(const std::string& path) const {
    return answer(client(place_).Get(path, headers(place_.token_file)), place_);
}

std::expected<Json, ClientFailure> AdminClient::post(const std::string& path,
                                                     const Json& body) const {
    return answer(
        client(place_).Post(path, headers(place_.token_file), body.dump(), "application/json"),
        place_);
}

} // namespace control::cli
