#include "dataplane/daemon/net_host.h"

#include "dataplane/daemon/offload_host.h"

#include <random>
#include <utility>

namespace dataplane::daemon {

std::expected<std::unique_ptr<NetHost>, std::string>
NetHost::open(const policy::StartUp& start_up) {
    net::EalOptions options = eal_options(start_up);
    for (const policy::PortPolicy& settings : start_up.ports) {
        if (!settings.is_pci()) continue;
        options.pci = true;
        options.pci_devices.push_back(settings.device);
    }
    auto eal = net::Eal::start(options);
    if (!eal) return std::unexpected(eal.error().text);
    std::unique_ptr<NetHost> host(new NetHost(start_up, std::move(*eal)));
    for (const policy::PortPolicy& settings : start_up.ports) {
        auto port = NetPort::open(host->eal_, settings, start_up.shards);
        if (!port) return std::unexpected(port.error());
        host->ports_.push_back(std::move(*port));
    }
    return host;
}

NetHost::NetHost(const policy::StartUp& start_up, net::Eal eal)
    : tcp_(start_up.tcp), shards_(start_up.shards), eal_(std::move(eal)),
      others_(start_up.shards - 1) {
    std::random_device entropy;
    for (std::uint64_t& word : secret_)
        word = std::uint64_t{entropy()} << 32 | entropy();
}

void NetHost::leave(unsigned shard) noexcept {
    if (shard != 0) others_.fetch_sub(1, std::memory_order_acq_rel);
}

net::stack::StackOptions NetHost::stack_options(unsigned shard) const {
    net::stack::StackOptions options{.connections_max = tcp_.connections_max,
                                     .secret = secret_,
                                     .shard_count = shards_,
                                     .shard = shard};
    options.tcp.congestion = tcp_.congestion == policy::TcpPolicy::Congestion::new_reno
                                 ? net::tcp::CongestionKind::new_reno
                                 : net::tcp::CongestionKind::cubic;
    options.tcp.ecn = tcp_.ecn;
    options.tcp.initial_window_segments = tcp_.initial_window_segments;
    options.tcp.receive_bytes_max = tcp_.receive_bytes_max;
    options.tcp.send_bytes_max = tcp_.send_bytes_max;
    options.tcp.keepalive_idle = tcp_.keepalive_idle;
    options.tcp.user_timeout = tcp_.user_timeout;
    options.tcp.time_wait = tcp_.time_wait;
    return options;
}

} // namespace dataplane::daemon
