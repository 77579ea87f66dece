#include "dataplane/policy/start_up_change.h"

#include <algorithm>
#include <string>
#include <unordered_set>
#include <vector>

namespace dataplane::policy {
namespace {

/// Sessions know their listener by its place in the list, and ports below 1024 take privileges that
/// are gone.
bool same_listeners(const std::vector<ListenerPolicy>& a, const std::vector<ListenerPolicy>& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                      [](const ListenerPolicy& x, const ListenerPolicy& y) {
                          return x.name == y.name && x.address == y.address && x.kind == y.kind &&
                                 x.proxy_protocol == y.proxy_protocol &&
                                 x.allow_plain_auth == y.allow_plain_auth &&
                                 x.connections_max == y.connections_max &&
                                 x.transport == y.transport;
                      });
}

/// The sources that only a start can bring: their addresses are on no port that is open.
std::string sources_without_port(const StartUp& running, const Policy& next) {
    std::unordered_set<base::IpAddress, base::IpAddressHash> ours;
    for (const PortPolicy& port : running.ports) {
        for (const PortPolicy::Address& address : port.addresses)
            ours.insert(address.ip);
    }
    std::string names;
    for (const SourcePolicy& source : next.sources) {
        if (source.transport != TransportKind::dpdk) continue;
        const bool ready = !ours.empty() &&
                           (!source.address_v4 || ours.contains(*source.address_v4)) &&
                           (!source.address_v6 || ours.contains(*source.address_v6));
        if (!ready) names += (names.empty() ? "" : " ") + source.name;
    }
    return names;
}

} // namespace

std::string changed_at_start(const Policy& first, const Policy& next) {
    const StartUp& running = first.start_up;
    const StartUp& wanted = next.start_up;
    std::string names;
    const auto compare = [&](const auto& a, const auto& b, std::string_view name) {
        if (a == b) return;
        if (!names.empty()) names += ", ";
        names += name;
    };
    compare(running.shards, wanted.shards, "server.shards");
    compare(running.cpus, wanted.cpus, "server.cpus");
    compare(running.state_dir, wanted.state_dir, "server.state_dir");
    compare(running.run_dir, wanted.run_dir, "server.run_dir");
    compare(running.spool_dir, wanted.spool_dir, "server.spool_dir");
    compare(running.event_log, wanted.event_log, "server.event_log");
    compare(running.spool_bytes_per_shard, wanted.spool_bytes_per_shard, "server.spool_size");
    compare(running.spool_segment_bytes, wanted.spool_segment_bytes, "server.segment_size");
    compare(running.scrub_bytes_per_s, wanted.scrub_bytes_per_s, "server.scrub_rate");
    compare(running.spool_key, wanted.spool_key, "server.spool_key");
    compare(running.commit, wanted.commit, "server.commit");
    compare(running.durability, wanted.durability, "server.durability");
    compare(running.mirror_dir, wanted.mirror_dir, "server.mirror_dir");
    compare(running.mirror_copy_bytes_per_s, wanted.mirror_copy_bytes_per_s,
            "server.mirror_copy_rate");
    compare(running.resident_bytes_per_shard, wanted.resident_bytes_per_shard, "server.memory");
    compare(running.dns_servers, wanted.dns_servers, "dns.servers");
    compare(running.resolver_threads, wanted.resolver_threads, "dns.resolver_threads");
    compare(running.dnssec, wanted.dnssec, "dns.dnssec");
    compare(running.busy_poll, wanted.busy_poll, "server.busy_poll");
    compare(running.openssl_relief, wanted.openssl_relief, "tls.openssl_relief");
    compare(running.dpdk, wanted.dpdk, "dpdk");
    compare(running.ports, wanted.ports, "port");
    compare(running.tcp, wanted.tcp, "tcp");
    compare(running.offload, wanted.offload, "offload");
    compare(same_listeners(first.listeners, next.listeners), true, "listener");
    const std::string portless = sources_without_port(running, next);
    compare(portless, std::string{}, "source on dpdk: " + portless);
    return names;
}

} // namespace dataplane::policy
