#include "dataplane/daemon/queue_operations.h"

#include "dataplane/base/wait.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

namespace dataplane::daemon {

using delivery::Ending;
using delivery::MailFilter;
using delivery::StandingOrder;
using nlohmann::json;
using queue::Entry;
using queue::EntryRef;
using queue::EntryState;
using Kind = policy::ShardCommand::Kind;

namespace {

constexpr EntryRef slots_per_turn = 4096;
constexpr std::size_t loads_per_turn = 64;
constexpr std::uint32_t recipients_listed_max = 100; // of one message
constexpr std::size_t groups_told_max = 1000;
constexpr std::uint32_t sample_size = 10;                        // of a dry run
constexpr base::Duration endings_wait = std::chrono::seconds{4}; // the link gives a command five

/// Resumes in the next turn, after the disk and the network had theirs.
class NextTurn final : public base::TurnEnd {
public:
    explicit NextTurn(base::Loop& loop) noexcept : loop_(loop) {}
    ~NextTurn() override {
        if (waiting_) loop_.forget(waiting_);
    }
    [[nodiscard]] bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiting) noexcept {
        waiting_ = waiting;
        loop_.at_turn_end(*this);
    }
    void await_resume() noexcept { waiting_ = nullptr; }

private:
    void turn_end() noexcept override {
        loop_.make_ready(waiting_, "queue operation", base::Room::control);
    }
    base::Loop& loop_;
    std::coroutine_handle<> waiting_;
};

/// What a peer wrote may be no UTF-8: shown with replacement characters, never a failed command.
std::string print(const json& reply) {
    return reply.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string text_of(const json& from, const char* key) {
    const auto found = from.find(key);
    return found != from.end() && found->is_string() ? found->get<std::string>() : std::string{};
}
std::uint64_t number_of(const json& from, const char* key) {
    const auto found = from.find(key);
    return found != from.end() && found->is_number_unsigned() ? found->get<std::uint64_t>() : 0;
}
bool flag_of(const json& from, const char* key) {
    const auto found = from.find(key);
    return found != from.end() && found->is_boolean() && found->get<bool>();
}

std::expected<MailFilter, std::string> filter_of(const json& from) {
    MailFilter filter;
    filter.domain = text_of(from, "domain");
    filter.tenant = text_of(from, "tenant");
    filter.account = text_of(from, "account");
    filter.sender = text_of(from, "sender");
    filter.recipient = text_of(from, "recipient");
    filter.site = text_of(from, "site");
    filter.error = text_of(from, "error");
    filter.code =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(number_of(from, "code"), 1000));
    filter.older_s =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(number_of(from, "older_s"), UINT32_MAX));
    const std::string id = text_of(from, "id");
    if (!id.empty()) {
        filter.id = queue::MessageId::parse(id);
        if (!filter.id)
            return std::unexpected('"' + id + "\" is no message id: 16 hex digits are expected");
    }
    return filter;
}

std::string_view name_of(queue::RecipientState state) noexcept {
    switch (state) {
    case queue::RecipientState::pending:
        return "pending";
    case queue::RecipientState::delivered:
        return "delivered";
    case queue::RecipientState::bounced:
        return "bounced";
    case queue::RecipientState::expired:
        return "expired";
    case queue::RecipientState::removed:
        return "removed";
    }
    return "unknown";
}

std::string_view age_group(std::int64_t age_s) noexcept {
    if (age_s < 60) return "under 1 min";
    if (age_s < 600) return "1 to 10 min";
    if (age_s < 3600) return "10 to 60 min";
    if (age_s < 6 * 3600) return "1 to 6 h";
    if (age_s < 24 * 3600) return "6 to 24 h";
    if (age_s < 72 * 3600) return "1 to 3 days";
    return "over 3 days";
}

std::int64_t unix_seconds(base::WallTime time) noexcept {
    return time.time_since_epoch().count() / 1000;
}

} // namespace

std::expected<std::vector<StandingOrder>, std::string> parse_orders(std::string_view text) {
    const json all = json::parse(text, nullptr, false);
    if (!all.is_object() || !all.contains("orders") || !all["orders"].is_array())
        return std::unexpected("standing orders are {\"orders\":[...]}");
    std::vector<StandingOrder> orders;
    for (const json& each : all["orders"]) {
        StandingOrder order;
        auto filter =
            each.is_object() ? filter_of(each) : std::unexpected(std::string{"no object"});
        const std::string kind = each.is_object() ? text_of(each, "kind") : std::string{};
        if (!filter || (kind != "suspend" && kind != "reroute")) {
            return std::unexpected("a standing order is not understood: " +
                                   (filter ? "kind \"" + kind + '"' : filter.error()));
        }
        order.filter = std::move(*filter);
        order.kind =
            kind == "suspend" ? StandingOrder::Kind::suspend : StandingOrder::Kind::reroute;
        order.id = number_of(each, "order");
        order.source = text_of(each, "to");
        if (order.kind == StandingOrder::Kind::reroute && order.source.empty())
            return std::unexpected("a standing order reroutes to nowhere");
        if (const auto until = number_of(each, "until_s"); until != 0)
            order.until = base::WallTime{std::chrono::seconds{until}};
        if (const auto by = number_of(each, "arrived_by_s"); by != 0)
            order.arrived_by =
                base::WallTime{std::chrono::seconds{by} + std::chrono::milliseconds{999}};
        orders.push_back(std::move(order));
    }
    return orders;
}

struct QueueOperations::Request {
    Kind kind = Kind::queue_count;
    MailFilter filter;
    std::string by;  // queue_count: domain, tenant, account, site, age, error, state
    std::string how; // queue_end: remove, dsn, expire
    bool dry_run = false;
    std::uint32_t limit = 100;
};

struct QueueOperations::Tally {
    std::uint64_t messages = 0, recipients = 0, bytes = 0, touched = 0, busy = 0, unread = 0;
    std::uint32_t oldest_s = UINT32_MAX; // arrival
    std::unordered_map<std::string, std::uint64_t> groups;
    std::vector<queue::MessageId> listed;
    json rows = json::array();
};

void QueueOperations::start(Kind kind, std::string_view arguments, Answer answer) {
    const json given = arguments.empty() ? json::object() : json::parse(arguments, nullptr, false);
    if (!given.is_object()) return answer(print({{"error", "the arguments are no JSON object"}}));
    if (kind == Kind::queue_orders) {
        auto orders = parse_orders(arguments);
        if (!orders) return answer(print({{"error", orders.error()}}));
        dispatcher_.set_orders(std::move(*orders));
        return answer(R"({"taken":1})");
    }
    auto filter = filter_of(given);
    if (!filter) return answer(print({{"error", filter.error()}}));
    Request request{.kind = kind,
                    .filter = std::move(*filter),
                    .by = text_of(given, "by"),
                    .how = text_of(given, "how"),
                    .dry_run = flag_of(given, "dry_run"),
                    .limit = 100};
    if (given.contains("limit"))
        request.limit =
            static_cast<std::uint32_t>(std::min<std::uint64_t>(number_of(given, "limit"), 10'000));
    if (kind == Kind::queue_end && request.how != "remove" && request.how != "dsn" &&
        request.how != "expire") {
        return answer(print({{"error", "mail is ended by remove, dsn or expire"}}));
    }
    loop_.spawn(walk(std::move(request), std::move(answer)), "queue operation",
                base::Room::control);
}

std::string_view QueueOperations::site_of(EntryRef ref, const Entry& entry) const {
    const queue::SiteRef site = queue_.schedule().site_of(ref);
    if (site != queue::no_site) {
        const std::string_view key = queue_.schedule().view(site).key;
        return key.substr(0, key.find_first_of("\n!"));
    }
    return dispatcher_.site_name(queue_.index().texts().text(entry.domain));
}

/// What its last attempt ended with, or why its site takes nothing.
std::string_view QueueOperations::why(EntryRef ref, const Entry& entry) const {
    const queue::SiteRef site = queue_.schedule().site_of(ref);
    const std::string_view of_site =
        site == queue::no_site ? std::string_view{} : queue_.schedule().view(site).why;
    return of_site.empty() ? queue_.index().error(entry) : of_site;
}

bool QueueOperations::selected(const Request& request, EntryRef ref, const Entry& entry) const {
    if (!request.filter.may_match(queue_.index(), entry, loop_.wall_now())) return false;
    if (!request.filter.error.empty() &&
        why(ref, entry).find(request.filter.error) == std::string_view::npos) {
        return false;
    }
    return request.filter.site.empty() ||
           delivery::same_text(request.filter.site, site_of(ref, entry));
}

std::string QueueOperations::group_of(const Request& request, EntryRef ref,
                                      const Entry& entry) const {
    const queue::MessageIndex& index = queue_.index();
    const auto named = [](std::string_view name) {
        return std::string{name.empty() ? std::string_view{"(none)"} : name};
    };
    if (request.by == "tenant") return named(index.texts().text(entry.tenant));
    if (request.by == "account") return named(index.texts().text(entry.account));
    if (request.by == "site") return named(site_of(ref, entry));
    if (request.by == "error") return named(why(ref, entry));
    if (request.by == "age")
        return std::string{age_group(unix_seconds(loop_.wall_now()) - entry.arrival_s)};
    if (request.by == "state") {
        if (entry.state == EntryState::damaged) return "damaged";
        if (entry.state != EntryState::queued) return "being delivered";
        switch (queue_.schedule().state(ref)) {
        case queue::Schedule::State::timed:
            return "waiting for its time";
        case queue::Schedule::State::parked:
            return "waiting for its site";
        case queue::Schedule::State::held:
            return "suspended";
        case queue::Schedule::State::ready:
        case queue::Schedule::State::none:
            return "ready";
        }
    }
    return named(index.texts().text(entry.domain));
}

void QueueOperations::take(const Request& request, Tally& tally, EntryRef ref) {
    const queue::MessageIndex& index = queue_.index();
    const Entry& entry = index[ref];
    ++tally.messages;
    tally.recipients += index.pending_count(entry);
    tally.bytes += entry.content_bytes;
    tally.oldest_s = std::min(tally.oldest_s, entry.arrival_s);
    const bool listing = request.kind == Kind::queue_list || request.kind == Kind::queue_show;
    const std::uint32_t listed_max = listing ? request.limit : request.dry_run ? sample_size : 0;
    if (tally.listed.size() < listed_max) tally.listed.push_back(entry.id);
    if (!request.by.empty()) ++tally.groups[group_of(request, ref, entry)];
    const bool changes = request.kind == Kind::queue_flush || request.kind == Kind::queue_end;
    if (!changes || request.dry_run) return;

    if (entry.state == EntryState::damaged && request.how != "remove") return;
    if (entry.state == EntryState::handed || entry.state == EntryState::loading) {
        ++tally.busy;
        return;
    }
    if (request.kind == Kind::queue_flush) {
        const queue::SiteRef site = queue_.schedule().site_of(ref);
        if (site == queue::no_site) {
            const bool ready = queue_.schedule().state(ref) == queue::Schedule::State::ready;
            if (queue_.expedite(ref) || ready) ++tally.touched;
            return;
        }
        // Not the message, but its site: all of them at once would be a herd.
        ++tally.touched;
        if (queue_.schedule().view(site).paused_until == 0) return;
        const std::string key{queue_.schedule().view(site).key};
        if (!dispatcher_.end_pause(key)) queue_.unpause(site);
        static_cast<void>(queue_.release(site, 1));
        return;
    }
    if (request.how == "remove") {
        if (queue_.remove(ref)) ++tally.touched;
        return;
    }
    dispatcher_.end_message(entry.id, request.how == "expire" ? Ending::expired : Ending::removed);
    ++tally.touched;
    static_cast<void>(queue_.expedite(ref, true)); // a ready one comes by itself
}

base::Task<void> QueueOperations::walk(Request request, Answer answer) {
    Tally tally;
    std::vector<queue::MessageId> doubtful;
    const bool sure =
        !request.filter.needs_message() || (request.kind == Kind::queue_count && !request.dry_run);
    EntryRef ref = 0, end = queue_.index().slot_count();
    if (request.filter.id) {
        ref = queue_.index().find(*request.filter.id);
        end = ref == queue::no_entry ? ref : ref + 1;
    }
    while (ref < end) {
        const EntryRef stop = std::min(end, ref + slots_per_turn);
        for (; ref < stop && doubtful.size() < loads_per_turn; ++ref) {
            const Entry& entry = queue_.index()[ref];
            if (entry.id.value == 0 || !selected(request, ref, entry)) continue;
            if (sure) {
                take(request, tally, ref);
            } else {
                doubtful.push_back(entry.id);
            }
        }
        for (const queue::MessageId id : doubtful) {
            const auto deadline = base::Deadline::in(loop_, std::chrono::seconds{5});
            const auto message = co_await queue_.load(id, deadline);
            if (!message) {
                ++tally.unread;
                continue;
            }
            const EntryRef now = queue_.index().find(id);
            if (now != queue::no_entry && request.filter.matches(**message, loop_.wall_now()))
                take(request, tally, now);
        }
        doubtful.clear();
        NextTurn next{loop_};
        co_await next;
    }
    co_await list(&request, &tally);
    const bool changes = request.kind == Kind::queue_flush || request.kind == Kind::queue_end;
    json reply = json::object();
    if (request.kind == Kind::queue_show) {
        if (!tally.rows.empty()) reply["message"] = tally.rows.front();
        answer(print(reply));
        co_return;
    }
    if (request.kind == Kind::queue_list || request.dry_run) {
        reply[request.dry_run ? "sample" : "messages"] = std::move(tally.rows);
        reply["total"] = tally.messages;
    }
    if (request.kind == Kind::queue_count || request.dry_run) {
        reply["messages" + std::string{request.kind == Kind::queue_list ? "_count" : ""}] =
            tally.messages;
        reply["recipients"] = tally.recipients;
        reply["bytes"] = tally.bytes;
        if (tally.messages > 0)
            reply["oldest"] =
                json::array({{{"shard", loop_.shard()}, {"arrival", tally.oldest_s}}});
    }
    if (!request.by.empty()) {
        std::vector<std::pair<std::uint64_t, std::string>> groups;
        for (const auto& [name, count] : tally.groups)
            groups.emplace_back(count, name);
        std::ranges::sort(groups, std::greater{});
        json told = json::object();
        std::uint64_t others = 0;
        for (std::size_t i = 0; i < groups.size(); ++i) {
            if (i < groups_told_max) {
                told[groups[i].second] = groups[i].first;
            } else {
                others += groups[i].first;
            }
        }
        if (others > 0) told["(others)"] = others;
        reply["groups"] = std::move(told);
    }
    if (changes && !request.dry_run) {
        reply["touched"] = tally.touched;
        reply["busy"] = tally.busy;
        if (request.kind == Kind::queue_end) {
            // What is answered for is safe: removals are on disk, reports are queued.
            const base::TimePoint patience = loop_.now() + endings_wait;
            while (dispatcher_.endings_left() > 0 && loop_.now() < patience) {
                static_cast<void>(co_await base::sleep_for(loop_, std::chrono::milliseconds{10}));
            }
            const auto synced =
                co_await queue_.sync(base::Deadline::in(loop_, std::chrono::seconds{1}));
            reply["pending"] = dispatcher_.endings_left() + (synced ? 0 : 1);
        }
    }
    if (tally.unread > 0) reply["unreadable"] = tally.unread;
    answer(print(reply));
}

/// Reads what is to be shown; the index has neither addresses nor all of the texts.
base::Task<void> QueueOperations::list(const Request* request, Tally* tally) {
    for (const queue::MessageId id : tally->listed) {
        const auto loaded =
            co_await queue_.load(id, base::Deadline::in(loop_, std::chrono::seconds{2}));
        const EntryRef ref = queue_.index().find(id);
        if (ref == queue::no_entry) continue; // delivered meanwhile
        const Entry& entry = queue_.index()[ref];
        const base::WallTime now = loop_.wall_now();
        json row{{"id", id.to_string()},
                 {"account", queue_.index().texts().text(entry.account)},
                 {"tenant", queue_.index().texts().text(entry.tenant)},
                 {"domain", queue_.index().texts().text(entry.domain)},
                 {"site", site_of(ref, entry)},
                 {"size", entry.content_bytes},
                 {"arrival", entry.arrival_s},
                 {"expiry", entry.expiry_s},
                 {"age_s", unix_seconds(now) - entry.arrival_s},
                 {"attempts", entry.attempts},
                 {"due", unix_seconds(entry.due)},
                 {"last_error", why(ref, entry)},
                 {"suspended", entry.state == EntryState::queued &&
                                   queue_.schedule().state(ref) == queue::Schedule::State::held},
                 {"recipients_pending", queue_.index().pending_count(entry)}};
        Request state{.by = "state"};
        row["state"] = group_of(state, ref, entry);
        if (loaded) {
            const queue::Message& message = **loaded;
            row["sender"] = message.envelope.sender();
            json recipients = json::array();
            for (std::size_t i = 0; i < message.status.size() && i < recipients_listed_max; ++i) {
                recipients.push_back({{"address", message.envelope.recipient(i).address},
                                      {"state", name_of(message.status[i].state)},
                                      {"attempts", message.status[i].attempts},
                                      {"last_code", message.status[i].last_code}});
            }
            row["recipients"] = std::move(recipients);
        }
        tally->rows.push_back(std::move(row));
        if (request->kind == Kind::queue_show) co_return;
    }
}

} // namespace dataplane::daemon
