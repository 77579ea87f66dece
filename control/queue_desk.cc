#include "control/queue_desk.h"

#include "control/notation.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <span>
#include <unistd.h>
#include <utility>

namespace control {
namespace {

using Json = nlohmann::ordered_json;
using Kind = schema::CommandKind;

constexpr std::string_view none = R"({"orders":[]})";
constexpr std::size_t orders_max = 1000; // each message that is handed out is held against all
constexpr std::uint32_t listed_max = 10'000;

// What can be told of a message for good; error, code and site change while it waits.
constexpr std::array<std::string_view, 6> lasting{"domain", "tenant",    "account",
                                                  "sender", "recipient", "id"};
constexpr std::array<std::string_view, 8> all_texts{"domain",    "tenant", "account", "sender",
                                                    "recipient", "id",     "site",    "error"};
constexpr std::array<std::string_view, 2> all_numbers{"code", "older_s"};
constexpr std::array<std::string_view, 7> groupings{"domain", "tenant", "account", "site",
                                                    "age",    "error",  "state"};

bool among(std::span<const std::string_view> names, std::string_view name) {
    return std::ranges::find(names, name) != names.end();
}

std::string print(const Json& json) {
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::uint64_t now_s() {
    return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::seconds>(
                                          std::chrono::system_clock::now().time_since_epoch())
                                          .count());
}

QueueRefusal wrong(std::string text) {
    return {true, std::move(text)};
}

/// A misspelt filter would select everything: refuses what is neither a filter nor one of `others`.
std::string check_keys(const Json& body, std::span<const std::string_view> texts,
                       std::span<const std::string_view> numbers,
                       std::span<const std::string_view> others) {
    for (const auto& [key, value] : body.items()) {
        if (among(texts, key) ? value.is_string() && !value.get<std::string>().empty()
                              : among(numbers, key) && value.is_number_unsigned())
            continue;
        if (among(others, key)) continue;
        return in_quotes(key) + " is no filter of this command, or of the wrong type";
    }
    return "";
}

bool has_filter(const Json& body) {
    return std::ranges::any_of(all_texts, [&](auto key) { return body.contains(key); }) ||
           std::ranges::any_of(all_numbers, [&](auto key) { return body.contains(key); });
}

bool flag(const Json& body, const char* key) {
    const auto found = body.find(key);
    return found != body.end() && found->is_boolean() && found->get<bool>();
}

} // namespace

QueueDesk::QueueDesk(std::string file, Ask ask, Known known)
    : file_(std::move(file)), ask_(std::move(ask)), known_(std::move(known)), orders_(none) {}

std::string QueueDesk::open() {
    const std::lock_guard hold(lock_);
    if (!std::filesystem::exists(file_)) return "";
    std::ifstream in(file_, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>{in}, {}};
    const Json all = Json::parse(text, nullptr, false);
    if (!in || !all.is_object() || !all.contains("orders") || !all["orders"].is_array()) {
        return file_ +
               " holds the suspensions and reroutes of queued mail, and cannot be read; put it "
               "right, or remove it to end them all";
    }
    orders_ = text;
    untold_ = true;
    return "";
}

/// By rename: a reader sees the old orders or the new ones.
std::string QueueDesk::save(const std::string& text) {
    const std::string fresh = file_ + ".new";
    const int file = ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    const bool written =
        file >= 0 && write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
        fsync(file) == 0;
    const int failure = errno;
    if (file >= 0) close(file);
    if (!written || std::rename(fresh.c_str(), file_.c_str()) != 0)
        return file_ + ": " + std::strerror(written ? errno : failure);
    const std::string folder = std::filesystem::path(file_).parent_path().string();
    const int opened = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (opened >= 0) {
        static_cast<void>(fsync(opened));
        close(opened);
    }
    orders_ = text;
    untold_ = true;
    return "";
}

bool QueueDesk::tell() {
    CommandRequest command{.kind = Kind::queue_orders};
    command.arguments = orders_;
    untold_ = !ask_(command).has_value();
    return !untold_;
}

void QueueDesk::follow() {
    const std::lock_guard hold(lock_);
    if (untold_) static_cast<void>(tell());
}

std::expected<std::string, QueueRefusal> QueueDesk::run(std::string_view verb,
                                                        std::string_view text) {
    Json body = text.empty() ? Json::object() : Json::parse(text, nullptr, false);
    if (!body.is_object()) return std::unexpected(wrong("the body is no JSON object"));
    const auto ask = [&](Kind kind, const Json& arguments,
                         std::uint32_t limit) -> std::expected<std::string, QueueRefusal> {
        CommandRequest command{.kind = kind, .limit = limit};
        command.arguments = print(arguments);
        auto reply = ask_(command);
        if (!reply) return std::unexpected(QueueRefusal{false, reply.error()});
        return std::move(*reply);
    };
    const auto refuse_keys = [&](std::span<const std::string_view> texts,
                                 std::initializer_list<std::string_view> others) {
        const bool lasts = texts.size() == lasting.size();
        return check_keys(body, texts, lasts ? std::span<const std::string_view>{} : all_numbers,
                          std::span{others.begin(), others.size()});
    };
    const bool dry_run = flag(body, "dry_run");

    if (verb == "list" || verb == "show" || verb == "count") {
        if (const auto why = refuse_keys(all_texts, {"limit", "by"}); !why.empty())
            return std::unexpected(wrong(why));
        const Json by = body.value("by", Json{});
        if (!by.is_null() && !(by.is_string() && among(groupings, by.get<std::string>())))
            return std::unexpected(
                wrong("mail is grouped by domain, tenant, account, site, age, error or state"));
        const Json limit = body.value("limit", Json(100U));
        if (!limit.is_number_unsigned()) return std::unexpected(wrong("limit is a number"));
        const auto most = static_cast<std::uint32_t>(
            std::min<std::uint64_t>(limit.get<std::uint64_t>(), listed_max));
        const Kind kind = verb == "list"   ? Kind::queue_list
                          : verb == "show" ? Kind::queue_show
                                           : Kind::queue_count;
        return ask(kind, body, verb == "list" ? most : 0);
    }
    if (verb == "orders") return orders_text();
    if (verb == "flush" || verb == "delete" || verb == "expire") {
        if (const auto why = refuse_keys(all_texts, {"dry_run", "dsn", "everything"}); !why.empty())
            return std::unexpected(wrong(why));
        if (!has_filter(body) && !flag(body, "everything"))
            return std::unexpected(wrong("say which mail, or \"everything\":true"));
        if (verb == "delete" && !dry_run && !body.contains("dsn"))
            return std::unexpected(
                wrong("say whether senders are told: \"dsn\":true or \"dsn\":false"));
        if (verb == "flush") return ask(Kind::queue_flush, body, 10);
        body["how"] = verb == "expire" ? "expire" : flag(body, "dsn") ? "dsn" : "remove";
        return ask(Kind::queue_end, body, 10);
    }
    if (verb == "suspend" || verb == "reroute") {
        if (const auto why =
                refuse_keys(lasting, {"dry_run", "everything", "reason", "for_s", "to"});
            !why.empty()) {
            return std::unexpected(wrong(why));
        }
        if (!has_filter(body) && !flag(body, "everything"))
            return std::unexpected(wrong("say which mail, or \"everything\":true"));
        const Json to = body.value("to", Json{});
        const bool reroute = verb == "reroute";
        if (reroute != to.is_string() || (reroute && !known_(to.get<std::string>()))) {
            return std::unexpected(wrong(reroute ? "\"to\" names a [[source]] or a [[pool]]"
                                                 : "\"to\" belongs to a reroute"));
        }
        const Json period = body.value("for_s", Json(0U)), reason = body.value("reason", Json(""));
        if (!period.is_number_unsigned() || !reason.is_string())
            return std::unexpected(wrong("for_s is a number of seconds, reason a text"));
        Json mail = Json::object();
        for (const std::string_view key : lasting) {
            if (body.contains(key)) mail[std::string{key}] = body[std::string{key}];
        }
        if (dry_run) {
            mail["dry_run"] = true;
            return ask(Kind::queue_count, mail, 10);
        }
        Json order = mail;
        {
            const std::lock_guard hold(lock_);
            Json all = Json::parse(orders_);
            std::uint64_t last = all.value("last", std::uint64_t{0});
            std::erase_if(all["orders"].get_ref<Json::array_t&>(), [](const Json& each) {
                const auto until = each.value("until_s", std::uint64_t{0});
                return until != 0 && until <= now_s();
            });
            if (all["orders"].size() >= orders_max)
                return std::unexpected(wrong("there are " + std::to_string(orders_max) +
                                             " orders: end some of them first"));
            order["order"] = ++last;
            order["kind"] = std::string{verb};
            order["made_s"] = now_s();
            if (reroute) {
                order["to"] = to;
                order["arrived_by_s"] = now_s();
            }
            if (period.get<std::uint64_t>() != 0)
                order["until_s"] =
                    now_s() + std::min<std::uint64_t>(period.get<std::uint64_t>(), 1U << 31);
            if (!reason.get<std::string>().empty()) order["reason"] = reason;
            all["last"] = last;
            all["orders"].push_back(order);
            if (const auto why = save(print(all)); !why.empty())
                return std::unexpected(QueueRefusal{false, why});
            if (!tell()) {
                return print({{"order", order["order"]},
                              {"in_use", false},
                              {"text", "kept; millraced takes it when it is connected"}});
            }
        }
        // What waits for the old source is to look again; what is suspended waits where it is.
        auto counted = ask(reroute ? Kind::queue_flush : Kind::queue_count, mail, 0);
        Json reply{{"order", order["order"]}, {"in_use", true}};
        if (counted) {
            const Json found = Json::parse(*counted, nullptr, false);
            const auto number = found.find(reroute ? "touched" : "messages");
            const bool counts = number != found.end() && number->is_number_unsigned();
            reply["touched"] = counts ? number->get<std::uint64_t>() : 0;
        }
        return print(reply);
    }
    if (verb == "resume") {
        if (const auto why = refuse_keys(lasting, {"dry_run", "everything", "order"}); !why.empty())
            return std::unexpected(wrong(why));
        const Json wanted = body.value("order", Json{});
        if (wanted.is_null() && !has_filter(body) && !flag(body, "everything"))
            return std::unexpected(wrong("say which order or which mail, or \"everything\":true"));
        const std::lock_guard hold(lock_);
        Json all = Json::parse(orders_);
        Json ended = Json::array();
        std::erase_if(all["orders"].get_ref<Json::array_t&>(), [&](const Json& each) {
            bool meant = wanted.is_null() ? each.value("kind", "") == "suspend"
                                          : each.value("order", Json{}) == wanted;
            for (const std::string_view key : lasting) {
                const std::string name{key};
                if (body.contains(name)) meant = meant && each.value(name, Json{}) == body[name];
            }
            if (meant) ended.push_back(each);
            return meant;
        });
        Json reply{{"ended", ended.size()}, {"orders", ended}};
        if (dry_run || ended.empty()) return print(reply);
        if (const auto why = save(print(all)); !why.empty())
            return std::unexpected(QueueRefusal{false, why});
        reply["in_use"] = tell();
        return print(reply);
    }
    return std::unexpected(wrong("no such queue command: " + std::string{verb}));
}

std::string QueueDesk::orders_text() {
    const std::lock_guard hold(lock_);
    return orders_;
}

} // namespace control
