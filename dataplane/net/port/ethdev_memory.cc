// Where frames lie: pools of mbufs, and memory of ours that the device reads.
#include "dataplane/net/port/ethdev_device.h"

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>

#include <unistd.h>

#include <algorithm>

namespace dataplane::net {
namespace {

constexpr std::uint16_t frame_overhead = 18; // Ethernet and a tag
constexpr std::uint32_t pool_cache = 256;    // an mbuf goes round in a core's cache
constexpr std::size_t cache_line = 64;
constexpr std::uint16_t data_room_min = 2048; // af_packet copies a whole ring frame, unchecked

} // namespace

void EthdevPort::Queue::PoolFree::operator()(rte_mempool* pool) const noexcept {
    rte_mempool_free(pool);
}

std::expected<void, PortError> EthdevPort::Queue::make_pools() {
    const EthdevOptions& options = device_.options;
    const int place = rte_eth_dev_socket_id(device_.device);
    const std::size_t frame = std::max<std::size_t>(data_room_min, options.mtu + frame_overhead);
    const auto room = static_cast<std::uint16_t>(
        RTE_PKTMBUF_HEADROOM + (frame + cache_line - 1) / cache_line * cache_line);
    transmit_data_room_ = static_cast<std::uint16_t>(room - RTE_PKTMBUF_HEADROOM);
    const auto make = [&](const char* kind, std::uint32_t count, std::uint32_t cache,
                          std::uint16_t private_bytes, std::uint16_t data_room) {
        // A second start has pools of its own: the device may still hold mbufs of the first's.
        const std::string name = std::string{kind} + std::to_string(device_.device) +
                                 (device_.given_up.empty() ? "q" : "r") + std::to_string(index_);
        return PoolHandle{rte_pktmbuf_pool_create(name.c_str(), count, std::min(cache, count / 4),
                                                  private_bytes, data_room, place)};
    };
    receive_pool_ = make("receive", options.receive_buffers, pool_cache, 0, room);
    transmit_pool_ = make("transmit", options.transmit_buffers, pool_cache, 0, room);
    attach_pool_ = make("attach", options.attached_buffers, pool_cache,
                        RTE_ALIGN_CEIL(attachment_bytes_max, RTE_MBUF_PRIV_ALIGN), 0);
    // No cache: buffers in the cache of a thread that is gone would be missing here.
    control_pool_ = make("control", options.control_reserve, 0, 0, room);
    if (!receive_pool_ || !transmit_pool_ || !attach_pool_ || !control_pool_) {
        return std::unexpected(device_error(
            PortErrorKind::no_memory, options.device,
            "no memory for its buffers: " + std::string{rte_strerror(rte_errno)} +
                "; reserve more huge pages (echo 512 > /proc/sys/vm/nr_hugepages), give more "
                "memory to DPDK, or ask for fewer buffers"));
    }
    return {};
}

bool EthdevPort::State::map(std::span<std::byte> area) noexcept {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::lock_guard lock{areas_mutex};
    if (areas.size() == memory_areas_max || rte_eal_iova_mode() != RTE_IOVA_VA) return false;
    if (rte_extmem_register(area.data(), area.size(), nullptr, 0, page) != 0) return false;
    const auto iova = reinterpret_cast<std::uint64_t>(area.data()); // IOVA as VA
    if (rte_dev_dma_map(found->device, area.data(), iova, area.size()) != 0) {
        rte_extmem_unregister(area.data(), area.size());
        return false;
    }
    areas.push_back(area);
    return true;
}

void EthdevPort::State::unmap_all() noexcept {
    for (const std::span<std::byte> area : areas) {
        const auto iova = reinterpret_cast<std::uint64_t>(area.data());
        static_cast<void>(rte_dev_dma_unmap(found->device, area.data(), iova, area.size()));
        rte_extmem_unregister(area.data(), area.size());
    }
    areas.clear();
}

bool EthdevPort::Queue::register_memory(std::span<std::byte> arena) noexcept {
    if (!device_.reads_by_iova) return true; // by address: all of it
    if (!device_.attach) return false;       // it copies anyway
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::span<std::byte> whole = arena.first(arena.size() / page * page);
    if (whole.empty() || !device_.map(whole)) return false;
    areas_.push_back(whole);
    return true;
}

} // namespace dataplane::net
