// ethdev_port.h: any DPDK device as Ports, one per queue pair.
//
// Scope      Opens and starts the device, reads what it can do and does the rest in software: checksums,
//            cutting, single-buffer frames, RSS read back. The report says which is which, and why.
// Owns       The device from open() to the end, its mbuf pools; references to slabs that the device still
//            reads. A device with DMA reads only memory that its queue was told of (register_memory(),
//            with EAL in the IOVA mode "VA"); payload elsewhere is copied. Slab pools outlive settle().
// Threading  open() and the end on one thread; queue(i) on one shard's, entered by ShardThread. Slabs are
//            given back on that thread too: a device that hands mbufs to other threads (net_ring) gets
//            copies.
// Failure    open() says what is wrong and what to do. Afterwards as Port says: no_buffers, ring_full;
//            frames a driver refuses for good, and those longer than the MTU, are dropped and counted.
#pragma once

#include "dataplane/net/port/eal.h"
#include "dataplane/net/port/limits.h"
#include "dataplane/net/port/port.h"

#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace dataplane::net {

struct EthdevOptions {
    std::string device; // its name, as Eal::add_device() gave it
    std::uint16_t queue_count = 1;
    /// Several queues are of use only if the device spreads flows over them by RSS, with a key and a
    /// table that it shows: one queue otherwise, and the report says why.
    bool spread_or_one = false;
    std::uint16_t mtu = 1500; // of IP; less when the interface below has less
    std::uint16_t receive_ring = 1024;
    std::uint16_t transmit_ring = 1024;
    std::uint32_t receive_buffers = 4096;  // per queue, above receive_ring
    std::uint32_t transmit_buffers = 4096; // per queue, of headers and copied payload
    std::uint32_t attached_buffers = 8192; // per queue, of payload that stays in its slab
    std::uint32_t control_reserve = control_reserve_min; // per queue
    // What the device claims and gets wrong can be switched off, each by itself.
    bool use_receive_checksum = true;
    bool use_transmit_checksum = true;
    bool use_tso = true;
    bool use_multi_segment = true;
    /// Also what the driver only does in software (net_tap): for testing what offers it in hardware.
    bool use_software_offloads = false;
    /// Also where mbufs go to another reader (net_ring): for tests where one thread holds both ends.
    bool attach_always = false;
    /// As a device with DMA, also where memory is read by address: for testing what a NIC needs.
    bool reads_registered_only = false;
};

/// What was found at the start, and what is done in software instead.
struct EthdevReport {
    struct Feature {
        std::string name;    // "transmit checksum"
        bool device = false; // else in software
        std::string why;     // of the software: "not offered", "switched off", …
    };
    std::string device;
    std::string driver;
    std::string bus;
    MacAddress mac{};
    std::uint16_t mtu = 0;        // what is used
    std::uint16_t mtu_wanted = 0; // what the options said
    std::string why_mtu;          // of less, or of a doubt; empty: all is well
    std::uint16_t queue_count = 0;
    bool link_up = false;
    std::vector<Feature> features;
    /// A few lines for a person.
    [[nodiscard]] std::string text() const;
};

class EthdevPort {
public:
    /// The EAL runs, and the device is there.
    [[nodiscard]] static std::expected<std::unique_ptr<EthdevPort>, PortError>
    open(const EthdevOptions& options);
    ~EthdevPort();
    EthdevPort(const EthdevPort&) = delete;
    EthdevPort& operator=(const EthdevPort&) = delete;

    [[nodiscard]] Port& queue(std::uint16_t index) noexcept;
    [[nodiscard]] std::uint16_t queue_count() const noexcept;
    [[nodiscard]] const EthdevReport& report() const noexcept;
    /// memif: the peer is connected; a NIC: the cable is.
    [[nodiscard]] bool link_up() const noexcept;

private:
    EthdevPort();
    struct State;
    class Queue;
    std::unique_ptr<State> state_;
};

} // namespace dataplane::net
