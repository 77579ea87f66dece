#include "control/admin_server.h"

#include "control/notation.h"
#include "control/schema/capture_limits.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <httplib.h>
#include <nlohmann/json.hpp>
#include <openssl/crypto.h>
#include <span>
#include <stdexcept>
#include <sys/random.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

namespace control {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t body_bytes_max = 1U << 20;
constexpr std::size_t threads = 4; // commands wait for shards; a scrape must not wait for a command
constexpr std::uint32_t listed_max = 10'000;
constexpr int ok = 200, bad_request = 400, unauthorized = 401, not_found = 404, conflict = 409,
              unprocessable = 422, unavailable = 503;

std::string make_token(const std::string& path) {
    std::array<unsigned char, 32> random{};
    if (getrandom(random.data(), random.size(), 0) != static_cast<ssize_t>(random.size())) {
        throw std::runtime_error("no random bytes for the admin token");
    }
    std::string token;
    for (const unsigned char byte : random) {
        constexpr std::string_view hex = "0123456789abcdef";
        token += hex[byte >> 4];
        token += hex[byte & 15];
    }
    // By rename: a reader sees the old token or the new one, and it is never there with another
    // mode.
    const std::string fresh = path + ".new";
    unlink(fresh.c_str());
    const int file = open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    const std::string line = token + "\n";
    const bool written =
        file >= 0 && write(file, line.data(), line.size()) == static_cast<ssize_t>(line.size());
    if (file >= 0) close(file);
    if (!written || std::rename(fresh.c_str(), path.c_str()) != 0)
        throw std::runtime_error(path + ": " + std::strerror(errno));
    return token;
}

std::string print(const Json& json) {
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void answer(httplib::Response& response, int status, const std::string& json) {
    response.status = status;
    response.set_content(json, "application/json");
}

void refuse(httplib::Response& response, int status, const std::string& why) {
    answer(response, status, print({{"error", why}}));
}

/// The request's body as an object; answers 400 and returns nothing when it is none.
std::optional<Json> body_of(const httplib::Request& request, httplib::Response& response) {
    Json body = request.body.empty() ? Json::object() : Json::parse(request.body, nullptr, false);
    if (body.is_object()) return body;
    refuse(response, bad_request, "the body is no JSON object");
    return std::nullopt;
}

std::string text_of(const Json& body, const char* key) {
    const auto found = body.find(key);
    return found != body.end() && found->is_string() ? found->get<std::string>() : std::string{};
}

Json account_json(const Account& account) {
    return {{"name", account.name},
            {"enabled", account.enabled},
            {"generation", account.generation},
            {"tenant", account.tenant},
            {"source", account.source},
            {"sender_domains", account.sender_domains},
            {"messages_per_hour", account.messages_per_hour_max},
            {"certificates", account.certificates},
            {"created", account.created_s},
            {"changed", account.changed_s}};
}

int status_of(AccountError error) {
    switch (error) {
    case AccountError::exists:
        return conflict;
    case AccountError::unknown:
        return not_found;
    case AccountError::bad_value:
    case AccountError::weak_password:
        return bad_request;
    case AccountError::storage:
        return unavailable;
    }
    return unavailable;
}

void answer(httplib::Response& response, const AccountResult<Account>& result) {
    if (!result) return refuse(response, status_of(result.error().error), result.error().text);
    answer(response, ok, print(account_json(*result)));
}

} // namespace

class AdminServer::Server {
public:
    explicit Server(ControlProcess& process)
        : process_(process), token_(make_token(process.admin_token_file())) {
        http_.new_task_queue = [] {
            return new httplib::ThreadPool(threads);
        }; // owned by the server from here on
        http_.set_payload_max_length(body_bytes_max);
        http_.set_read_timeout(5);
        http_.set_write_timeout(5);
        http_.set_keep_alive_timeout(5);
        // The library's own choice is SO_REUSEPORT, which would let a second process share the port
        // unseen.
        http_.set_socket_options([](socket_t descriptor) {
            const int yes = 1;
            setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
        });
        http_.set_pre_routing_handler(
            [this](const httplib::Request& request, httplib::Response& response) {
                // A web page that made a name of its own point to 127.0.0.1 would send that name as
                // Host.
                if (!is_local_host(request.get_header_value("Host"))) {
                    refuse(response, unauthorized,
                           "the Host header must be an IP address or localhost");
                    return httplib::Server::HandlerResponse::Handled;
                }
                if (request.path.starts_with("/api/") && !authorized(request)) {
                    refuse(response, unauthorized,
                           "send the token of " + process_.admin_token_file() +
                               " as Authorization: Bearer");
                    return httplib::Server::HandlerResponse::Handled;
                }
                return httplib::Server::HandlerResponse::Unhandled;
            });
        add_public();
        add_accounts();
        add_commands();

        const base::SocketAddress& address = process.admin_address();
        if (!http_.bind_to_port(address.ip.to_string().c_str(), address.port)) {
            throw std::runtime_error("admin.address " + address.to_string() +
                                     " cannot be listened on: is it taken?");
        }
        thread_ = std::thread([this] { http_.listen_after_bind(); });
        while (!http_.is_running())
            std::this_thread::sleep_for(std::chrono::milliseconds{1}); // stop() needs it
    }
    ~Server() {
        http_.stop();
        thread_.join();
        unlink(process_.admin_token_file().c_str());
    }
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

private:
    static bool is_local_host(const std::string& host) {
        if (host.empty() || host == "localhost" || host.starts_with("localhost:")) return true;
        if (base::SocketAddress::parse(host) || base::IpAddress::parse(host)) return true;
        return host.starts_with('[') && host.ends_with(']') &&
               base::IpAddress::parse(host.substr(1, host.size() - 2));
    }
    bool authorized(const httplib::Request& request) const {
        constexpr std::string_view scheme = "Bearer ";
        const std::string header = request.get_header_value("Authorization");
        return header.size() == scheme.size() + token_.size() && header.starts_with(scheme) &&
               CRYPTO_memcmp(header.data() + scheme.size(), token_.data(), token_.size()) == 0;
    }

    void add_public() {
        http_.Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
            response.set_content(process_.metrics(), "text/plain; version=0.0.4");
        });
        http_.Get("/status", [this](const httplib::Request&, httplib::Response& response) {
            answer(response, ok, process_.status_json());
        });
        http_.Get("/status/net", [this](const httplib::Request&, httplib::Response& response) {
            if (const auto stats = process_.net_stats()) return answer(response, ok, *stats);
            refuse(response, unavailable,
                   "there is no statistics page: millraced has not run with this run_dir");
        });
        http_.Get("/check-liveness", [this](const httplib::Request&, httplib::Response& response) {
            if (process_.alive()) return answer(response, ok, print({{"alive", true}}));
            answer(response, unavailable,
                   print({{"alive", false}, {"error", "millraced is not connected"}}));
        });
    }

    void add_accounts() {
        http_.Get("/api/admin/accounts",
                  [this](const httplib::Request&, httplib::Response& response) {
                      const auto accounts = process_.accounts();
                      if (!accounts) return refuse(response, unavailable, accounts.error().text);
                      Json list = Json::array();
                      for (const Account& account : *accounts)
                          list.push_back(account_json(account));
                      answer(response, ok, print({{"accounts", std::move(list)}}));
                  });
        http_.Post("/api/admin/accounts/add", [this](const httplib::Request& request,
                                                     httplib::Response& response) {
            const auto body = body_of(request, response);
            if (!body) return;
            Account account;
            account.name = text_of(*body, "name");
            account.tenant = text_of(*body, "tenant");
            account.source = text_of(*body, "source");
            const Json domains = body->value("sender_domains", Json::array());
            const Json rate = body->value("messages_per_hour", Json(0U));
            if (!domains.is_array() || !rate.is_number_unsigned() ||
                rate.get<std::uint64_t>() > UINT32_MAX) {
                return refuse(response, bad_request,
                              "sender_domains is a list of domains, messages_per_hour a number");
            }
            for (const Json& domain : domains)
                account.sender_domains.push_back(domain.is_string() ? domain.get<std::string>()
                                                                    : "");
            account.messages_per_hour_max = rate.get<std::uint32_t>();
            answer(response, process_.add_account(account, text_of(*body, "password")));
        });
        on_account("passwd", [this](const Json& body) {
            return process_.set_password(text_of(body, "name"), text_of(body, "password"));
        });
        on_account("enable", [this](const Json& body) {
            return process_.set_enabled(text_of(body, "name"), true);
        });
        on_account("disable", [this](const Json& body) {
            return process_.set_enabled(text_of(body, "name"), false);
        });
        on_account("certificates", [this](const Json& body) -> AccountResult<Account> {
            std::vector<std::string> certificates;
            const Json given = body.value("certificates", Json::array());
            if (given.is_array()) {
                for (const Json& each : given)
                    certificates.push_back(each.is_string() ? each.get<std::string>() : "");
            } else {
                certificates.emplace_back(); // refused as what it is: no certificate
            }
            return process_.set_certificates(text_of(body, "name"), std::move(certificates));
        });
        on_account("remove", [this](const Json& body) {
            return process_.remove_account(text_of(body, "name"));
        });
    }

    void on_account(const std::string& verb,
                    std::function<AccountResult<Account>(const Json&)> act) {
        http_.Post(
            "/api/admin/accounts/" + verb,
            [act = std::move(act)](const httplib::Request& request, httplib::Response& response) {
                if (const auto body = body_of(request, response)) answer(response, act(*body));
            });
    }

    void add_commands() {
        http_.Post("/api/admin/reload",
                   [this](const httplib::Request&, httplib::Response& response) {
                       const ReloadReport report = process_.reload();
                       answer(response, report.errors.empty() ? ok : unprocessable,
                              print({{"errors", report.errors},
                                     {"warnings", report.warnings},
                                     {"version", report.version},
                                     {"in_use", report.in_use}}));
                   });
        http_.Get(R"(/api/admin/trace/([0-9A-Fa-f]{1,32}))",
                  [this](const httplib::Request& request, httplib::Response& response) {
                      const auto events = process_.trace(request.matches[1].str());
                      if (!events) return refuse(response, bad_request, events.error());
                      answer(response, ok, "{\"events\":" + *events + "}");
                  });
        http_.Post(R"(/api/admin/queue/([a-z]{1,16}))", [this](const httplib::Request& request,
                                                               httplib::Response& response) {
            const auto reply = process_.queue(request.matches[1].str(), request.body);
            if (reply) return answer(response, ok, *reply);
            refuse(response, reply.error().asker ? bad_request : unavailable, reply.error().text);
        });
        using Kind = schema::CommandKind;
        for (const auto& [path, kind] :
             {std::pair{"status", Kind::status}, std::pair{"cert/list", Kind::cert_list},
              std::pair{"cert/reload", Kind::cert_reload}, std::pair{"offload", Kind::offload},
              std::pair{"net/connections", Kind::net_connections}}) {
            http_.Post("/api/admin/" + std::string{path},
                       [this, command = kind](const httplib::Request& request,
                                              httplib::Response& response) {
                           run(command, request, response);
                       });
        }
        for (const auto& [path, kind] : {std::pair{"capture/start", Kind::capture_start},
                                         std::pair{"capture/read", Kind::capture_read},
                                         std::pair{"capture/stop", Kind::capture_stop}}) {
            http_.Post("/api/admin/" + std::string{path},
                       [this, command = kind](const httplib::Request& request,
                                              httplib::Response& response) {
                           run_capture(command, request, response);
                       });
        }
    }

    void run(schema::CommandKind kind, const httplib::Request& request,
             httplib::Response& response) {
        const auto body = body_of(request, response);
        if (!body) return;
        static constexpr std::array<std::string_view, 5> filters{"domain", "tenant", "account",
                                                                 "sender", "id"};
        const bool net = kind == schema::CommandKind::net_connections;
        if (!only_these(*body, net ? std::span<const std::string_view>{} : filters, limit_alone,
                        response)) {
            return;
        }
        send({kind, text_of(*body, "domain"), text_of(*body, "tenant"), text_of(*body, "account"),
              text_of(*body, "sender"), text_of(*body, "id"), limit_of(*body)},
             response);
    }

    void run_capture(schema::CommandKind kind, const httplib::Request& request,
                     httplib::Response& response) {
        const auto body = body_of(request, response);
        if (!body) return;
        static constexpr std::array<std::string_view, 3> texts{"local", "remote", "address"};
        static constexpr std::array<std::string_view, 4> numbers{"id", "port", "bytes", "seconds"};
        if (!only_these(*body, texts, numbers, response)) return;
        CommandRequest command{.kind = kind, .limit = 0}; // nothing of what was caught is cut off
        command.capture.id = number_of(*body, "id");
        command.capture.local = text_of(*body, "local");
        command.capture.remote = text_of(*body, "remote");
        command.capture.address = text_of(*body, "address");
        command.capture.bytes = number_of(*body, "bytes");
        const std::uint64_t port = number_of(*body, "port");
        const std::uint64_t seconds = number_of(*body, "seconds");
        if (port > UINT16_MAX || seconds > schema::capture_seconds_max ||
            command.capture.bytes > schema::capture_bytes_max) {
            return refuse(response, bad_request,
                          "a port is at most 65535, a capture lasts ten minutes and has 64 MiB at "
                          "most");
        }
        command.capture.port = static_cast<std::uint16_t>(port);
        command.capture.seconds = static_cast<std::uint32_t>(seconds);
        send(command, response);
    }

    static constexpr std::array<std::string_view, 1> limit_alone{"limit"};

    static std::uint64_t number_of(const Json& body, const char* key) {
        return body.value(key, std::uint64_t{0});
    }
    static std::uint32_t limit_of(const Json& body) {
        return static_cast<std::uint32_t>(
            std::min<std::uint64_t>(body.value("limit", std::uint64_t{100}), listed_max));
    }

    /// A misspelt filter would select everything: refuses what is neither of these.
    static bool only_these(const Json& body, std::span<const std::string_view> texts,
                           std::span<const std::string_view> numbers, httplib::Response& response) {
        for (const auto& [key, value] : body.items()) {
            const auto named = [&](std::span<const std::string_view> names) {
                return std::find(names.begin(), names.end(), key) != names.end();
            };
            if (named(texts) ? value.is_string() : named(numbers) && value.is_number_unsigned())
                continue;
            refuse(response, bad_request,
                   in_quotes(key) + " is no filter of this command, or of the wrong type");
            return false;
        }
        return true;
    }

    void send(const CommandRequest& command, httplib::Response& response) {
        const auto reply = process_.command(command);
        if (!reply) return refuse(response, unavailable, reply.error());
        answer(response, ok, *reply);
    }

    ControlProcess& process_;
    const std::string token_;
    httplib::Server http_;
    std::thread thread_;
};

AdminServer::AdminServer(ControlProcess& process) : server_(std::make_unique<Server>(process)) {}
AdminServer::~AdminServer() = default;

} // namespace control
