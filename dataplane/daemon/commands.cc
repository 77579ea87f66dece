#include "dataplane/daemon/commands.h"

#include "dataplane/base/check.h"

#include <nlohmann/json.hpp>
#include <string_view>

namespace dataplane::daemon {
namespace {

using nlohmann::json;
using policy::ShardCommand;

/// What a peer wrote may be no UTF-8: shown with replacement characters, never a failed command.
std::string print(const json& reply) {
    return reply.dump(-1, ' ', false, json::error_handler_t::replace);
}

json describe(unsigned shard, const tls_offload::offload::Engine& engine) {
    json backends = json::array();
    for (std::size_t i = 0; i < engine.backend_count(); ++i) {
        const tls_offload::offload::BackendReport report = engine.report(i);
        backends.push_back({{"name", report.name},
                            {"state", tls_offload::offload::to_string(report.state)},
                            {"in_flight", report.in_flight},
                            {"done", report.done},
                            {"errors", report.errors},
                            {"wrong", report.strikes}});
    }
    const tls_offload::offload::EngineCounters& from = engine.counters();
    return {{"shard", shard},
            {"in_flight", engine.in_flight()},
            {"backends", std::move(backends)},
            {"counters",
             {{"submitted", from.submitted},
              {"completed", from.completed},
              {"failed", from.failed},
              {"cancelled", from.cancelled},
              {"refused", from.refused},
              {"fallbacks", from.fallbacks},
              {"verify_failures", from.verify_failures},
              {"device_errors", from.device_errors},
              {"ring_full", from.ring_full},
              {"lost", from.lost},
              {"late", from.late},
              {"downs", from.downs},
              {"readmissions", from.readmissions},
              {"batches", from.batches},
              {"batched", from.batched},
              {"wait_us", from.wait_us_sum}}}};
}

} // namespace

void RelayCommands::start(const ShardCommand& command, std::function<void(std::string)> answer) {
    switch (command.kind) {
    case ShardCommand::Kind::queue_list:
    case ShardCommand::Kind::queue_show:
    case ShardCommand::Kind::queue_count:
    case ShardCommand::Kind::queue_flush:
    case ShardCommand::Kind::queue_orders:
    case ShardCommand::Kind::queue_end:
        CHECK(relay_ != nullptr);
        if (!relay_->is_open()) return answer(R"({"error":"the spool is still being read"})");
        if (!operations_) operations_.emplace(loop_, relay_->queue(), relay_->dispatcher());
        return operations_->start(command.kind, command.arguments, std::move(answer));
    default:
        return answer(run(command));
    }
}

std::string RelayCommands::run(const ShardCommand& command) {
    if (policy::is_net_command(command.kind))
        return policy::run_net_command(net_, loop_.shard(), command);
    CHECK(relay_ != nullptr);
    switch (command.kind) {
    case ShardCommand::Kind::status: {
        const queue::QueueCounters counters = relay_->queue().counters();
        const queue::SpoolPressure pressure = relay_->queue().pressure();
        const auto to_full = pressure.time_to_full;
        return print(
            {{"shards",
              json::array({{{"shard", loop_.shard()},
                            {"policy_version", policy_.current()->version},
                            {"queued", counters.queued_messages},
                            {"ready", counters.ready_messages},
                            {"deferred", counters.deferred_messages},
                            {"accepted", counters.accepted},
                            {"segments_free", counters.segments_free},
                            {"segments_total", counters.segments_total},
                            {"segments_bad", counters.segments_bad},
                            {"spool_level", queue::to_string(pressure.level)},
                            {"spool_used_percent", pressure.used_percent},
                            {"spool_seconds_to_full", to_full ? json(to_full->count()) : json()},
                            {"spool_stuck", pressure.stuck},
                            {"spool_read_only", counters.read_only != 0},
                            {"resident_bytes", counters.resident_bytes}}})}});
    }
    case ShardCommand::Kind::offload:
        CHECK(offload_ != nullptr);
        return print({{"shards", json::array({describe(loop_.shard(), *offload_)})}});
    case ShardCommand::Kind::queue_list:
    case ShardCommand::Kind::queue_show:
    case ShardCommand::Kind::queue_count:
    case ShardCommand::Kind::queue_flush:
    case ShardCommand::Kind::queue_orders:
    case ShardCommand::Kind::queue_end: // these take turns: see start()
    case ShardCommand::Kind::net_connections:
    case ShardCommand::Kind::capture_start:
    case ShardCommand::Kind::capture_read:
    case ShardCommand::Kind::capture_stop:
        break; // answered above
    }
    return print({{"error", "unknown command"}});
}

} // namespace dataplane::daemon
