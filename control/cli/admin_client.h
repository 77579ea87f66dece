// admin_client.h: millracectl's way to the admin API of a running millrace-control.
//
// Scope      One request, one JSON answer. Where the API is and what its token is come from the
//            configuration file, unless the command line says otherwise.
// Failure    ClientFailure: not running, refused with a reason, or no JSON.
#pragma once

#include <expected>
#include <nlohmann/json.hpp>
#include <string>

namespace control::cli {

using Json = nlohmann::ordered_json;

struct AdminPlace {
    std::string host;
    int port = 0;
    std::string token_file;
};

struct ClientFailure {
    bool not_running = false; // nobody listens there
    int status = 0;           // of HTTP, when somebody answered
    std::string text;
    Json body; // of the refusal
};

class AdminClient {
public:
    explicit AdminClient(AdminPlace place) : place_(std::move(place)) {}
    [[nodiscard]] std::expected<Json, ClientFailure> get(const std::string& path) const;
    [[nodiscard]] std::expected<Json, ClientFailure> post(const std::string& path,
                                                          const Json& body) const;
    [[nodiscard]] std::string address() const {
        return place_.host + ":" + std::to_string(place_.port);
    }

private:
    AdminPlace place_;
};

} // namespace control::cli
