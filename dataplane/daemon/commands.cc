#include "dataplane/daemon/commands.h"

#include "dataplane/base/check.h"

#include <nlohmann/json.hpp>
#include <string_view>

namespace dataplane::daemon {
namespace {

using nlohmann::json;
using policy::ShardCommand;

constexpr std::uint32_t recipients_listed_max = 100; // of one message

std::string_view state_name(queue::RecipientState state) noexcept {
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

std::int64_t unix_seconds(base::WallTime time) noexcept {
    return time.time_since_epoch().count() / 1000;
}

json describe(const queue::Message& message, base::WallTime now, bool suspended) {
    json out{{"id", message.id.to_string()},
             {"sender", message.envelope.sender()},
             {"account", message.envelope.account()},
             {"tenant", message.envelope.tenant()},
             {"size", message.content_bytes},
             {"arrival", unix_seconds(message.envelope.arrival)},
             {"expiry", unix_seconds(message.envelope.expiry)},
             {"age_s", unix_seconds(now) - unix_seconds(message.envelope.arrival)},
             {"attempts", message.attempts},
             {"due", unix_seconds(message.due)},
             {"last_error", message.last_error},
             {"suspended", suspended},
             {"recipients_pending", message.pending_count()}};
    json recipients = json::array();
    for (std::size_t i = 0; i < message.envelope.recipient_count() && i < recipients_listed_max;
         ++i) {
        recipients.push_back({{"address", message.envelope.recipient(i).address},
                              {"state", state_name(message.status[i].state)},
                              {"attempts", message.status[i].attempts},
                              {"last_code", message.status[i].last_code}});
    }
    out["recipients"] = std::move(recipients);
    return out;
}

/// What a peer wrote may be no UTF-8: shown with replacement characters, never a failed command.
std::string print(const json& reply) {
    return reply.dump(-1, ' ', false, json::error_handler_t::replace);
}

} // namespace

std::string RelayCommands::run(const ShardCommand& command) {
    if (policy::is_net_command(command.kind))
        return policy::run_net_command(net_, loop_.shard(), command);
    queue::QueueFilter filter{.domain = command.domain,
                              .tenant = command.tenant,
                              .account = command.account,
                              .sender = command.sender};
    if (!command.message_id.empty()) {
        filter.id = queue::MessageId::parse(command.message_id);
        if (!filter.id) {
            return print({{"error", "\"" + command.message_id +
                                        "\" is no message id: 16 hex digits are expected"}});
        }
    }
    CHECK(relay_ != nullptr);
    queue::MessageQueue& queue = relay_->queue();
    switch (command.kind) {
    case ShardCommand::Kind::queue_list: {
        json messages = json::array();
        std::uint64_t total = 0;
        queue.for_each(filter, [&](const queue::Message& message) {
            if (++total <= command.limit) {
                messages.push_back(describe(message, loop_.wall_now(), queue.suspended(message)));
            }
            return true;
        });
        return print({{"messages", std::move(messages)}, {"total", total}});
    }
    case ShardCommand::Kind::queue_show: {
        json reply = json::object();
        queue.for_each(filter, [&](const queue::Message& message) {
            reply["message"] = describe(message, loop_.wall_now(), queue.suspended(message));
            return false;
        });
        return print(reply);
    }
    case ShardCommand::Kind::queue_count: {
        std::uint64_t messages = 0, recipients = 0, bytes = 0;
        queue.for_each(filter, [&](const queue::Message& message) {
            ++messages;
            recipients += message.pending_count();
            bytes += message.content_bytes;
            return true;
        });
        return print({{"messages", messages}, {"recipients", recipients}, {"bytes", bytes}});
    }
    case ShardCommand::Kind::queue_flush:
        return print({{"touched", queue.flush(filter)}});
    case ShardCommand::Kind::queue_suspend:
        return print({{"touched", queue.suspend(filter)}});
    case ShardCommand::Kind::queue_resume:
        return print({{"touched", queue.resume(filter)}});
    case ShardCommand::Kind::status: {
        const queue::QueueCounters counters = queue.counters();
        return print({{"shards", json::array({{{"shard", loop_.shard()},
                                               {"policy_version", policy_.current()->version},
                                               {"queued", counters.queued_messages},
                                               {"ready", counters.ready_messages},
                                               {"deferred", counters.deferred_messages},
                                               {"accepted", counters.accepted},
                                               {"segments_free", counters.segments_free},
                                               {"segments_total", counters.segments_total},
                                               {"resident_bytes", counters.resident_bytes}}})}});
    }
    case ShardCommand::Kind::net_connections:
    case ShardCommand::Kind::capture_start:
    case ShardCommand::Kind::capture_read:
    case ShardCommand::Kind::capture_stop:
        break; // answered above
    }
    return print({{"error", "unknown command"}});
}

} // namespace dataplane::daemon
