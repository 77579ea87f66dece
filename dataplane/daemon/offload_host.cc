#include "dataplane/daemon/offload_host.h"

#include <sched.h>
#include <utility>

namespace dataplane::daemon {
namespace {

namespace offload = tls_offload::offload;
using Backend = policy::OffloadPolicy::Backend;

static_assert(static_cast<int>(Backend::automatic) == static_cast<int>(offload::Choice::best));
static_assert(static_cast<int>(Backend::threads) == static_cast<int>(offload::Choice::threads));
static_assert(static_cast<int>(Backend::qatengine) == static_cast<int>(offload::Choice::qatengine));

/// Processors that this process may use: a container has fewer than the machine.
unsigned processor_count() {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    return static_cast<unsigned>(CPU_COUNT(&set));
}

/// "0000:3d:01.0" of "0000:3d:01.0_qat_asym"; empty for a virtual device.
std::string pci_address(const std::string& device) {
    if (device.empty() || device.starts_with("crypto_")) return {};
    return device.substr(0, device.find('_'));
}

} // namespace

net::EalOptions eal_options(const policy::StartUp& start_up) {
    net::EalOptions options{.huge_pages = start_up.dpdk.hugepages,
                            .memory_mb = start_up.dpdk.memory_mb,
                            .file_prefix = start_up.dpdk.file_prefix,
                            .extra = start_up.dpdk.driver_args};
    if (const std::string pci = pci_address(start_up.offload.device); !pci.empty()) {
        options.pci = true;
        options.pci_devices.push_back(pci);
    }
    return options;
}

std::expected<std::unique_ptr<OffloadHost>, std::string>
OffloadHost::open(const policy::StartUp& start_up, bool dpdk_is_up) {
    const policy::OffloadPolicy& settings = start_up.offload;
    std::unique_ptr<OffloadHost> made{new OffloadHost};
    offload::HostOptions options{
        .choice = static_cast<offload::Choice>(settings.backend),
        .shards = start_up.shards,
        .processors = processor_count(),
        .workers = settings.workers,
        .shards_sleep = !(start_up.ports.empty() ? start_up.busy_poll : start_up.dpdk.busy_poll),
        .cores = settings.cores,
        .engine_file = settings.engine};
    if (settings.backend == Backend::cryptodev && !dpdk_is_up) {
        net::EalOptions eal = eal_options(start_up);
        eal.pci = settings.device.empty() || !eal.pci_devices.empty();
        auto started = net::Eal::start(eal);
        if (!started)
            return std::unexpected("[offload] backend = \"cryptodev\": " + started.error().text);
        made->eal_.emplace(std::move(*started));
    }
    if (dpdk_is_up || made->eal_) {
        options.open_cryptodev = [&]() -> std::expected<offload::DeviceBackends, std::string> {
            auto opened =
                offload::Cryptodev::open({.device = settings.device, .shards = start_up.shards});
            if (!opened) return std::unexpected(opened.error());
            made->device_ = std::move(*opened);
            return
                [device = made->device_.get()](unsigned shard) { return device->backend(shard); };
        };
    }
    auto host = offload::Host::start(std::move(options));
    if (!host) return std::unexpected(host.error());
    made->host_ = std::move(*host);
    return made;
}

} // namespace dataplane::daemon
