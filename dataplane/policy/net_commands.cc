#include "dataplane/policy/net_commands.h"

#include <nlohmann/json.hpp>
#include <openssl/evp.h>

namespace dataplane::policy {
namespace {

using Json = nlohmann::ordered_json;

std::string refusal(std::string_view why) {
    return Json{{"error", why}}.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string base64(std::span<const std::byte> bytes) {
    std::string text(4 * ((bytes.size() + 2) / 3) + 1, '\0'); // OpenSSL writes a NUL behind it
    const int size = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                     reinterpret_cast<const unsigned char*>(bytes.data()),
                                     static_cast<int>(bytes.size()));
    text.resize(static_cast<std::size_t>(size));
    return text;
}

Json connections(const NetCommands& net, unsigned shard, std::uint32_t limit) {
    Json list = Json::array();
    const std::size_t total = net.net_connections(limit, [&](const NetConnection& each) {
        list.push_back({{"shard", shard},
                        {"local", each.local.to_string()},
                        {"remote", each.remote.to_string()},
                        {"state", each.state},
                        {"outgoing", each.outgoing},
                        {"rtt_us", each.rtt.count()},
                        {"cwnd", each.cwnd_bytes},
                        {"in_flight", each.flight_bytes},
                        {"unsent", each.unsent_bytes},
                        {"unread", each.unread_bytes}});
    });
    return {{"connections", std::move(list)}, {"total", total}};
}

std::string capture_read(NetCommands& net, const CaptureRequest& request) {
    const auto state = net.capture_read(request);
    if (!state) return refusal("this capture is gone: it was stopped, or another one began");
    Json reply{{"running", state->running ? 1 : 0},
               {"frames", state->frames},
               {"dropped", state->dropped},
               {"blocks", Json::array()}};
    if (!state->blocks.empty()) reply["blocks"].push_back(base64(state->blocks));
    return reply.dump();
}

} // namespace

bool is_net_command(ShardCommand::Kind kind) noexcept {
    switch (kind) {
    case ShardCommand::Kind::net_connections:
    case ShardCommand::Kind::capture_start:
    case ShardCommand::Kind::capture_read:
    case ShardCommand::Kind::capture_stop:
        return true;
    default:
        return false;
    }
}

std::string run_net_command(NetCommands* net, unsigned shard, const ShardCommand& command) {
    if (net == nullptr) return refusal("this shard has no DPDK transport");
    switch (command.kind) {
    case ShardCommand::Kind::net_connections:
        return connections(*net, shard, command.limit).dump();
    case ShardCommand::Kind::capture_start: {
        if (command.capture.filter.is_empty())
            return refusal("a capture needs a connection, an address or a port");
        const auto started = net->capture_start(command.capture);
        return started ? Json{{"shards", Json::array({shard})}}.dump() : refusal(started.error());
    }
    case ShardCommand::Kind::capture_read:
        return capture_read(*net, command.capture);
    case ShardCommand::Kind::capture_stop:
        return Json{{"stopped", net->capture_stop(command.capture.id) ? 1 : 0}}.dump();
    default:
        return refusal("unknown command");
    }
}

} // namespace dataplane::policy
