// ethdev_device.h: what the files of ethdev_port.h share: the device, and its queues.
//
// Scope      Declarations. ethdev_port.cc opens and closes, ethdev_features.cc finds out what the device does
//            and what we do, ethdev_transmit.cc and ethdev_receive.cc carry frames, ethdev_memory.cc has pools and
//            registered memory.
// Owns       As ethdev_port.h says.
// Threading  As ethdev_port.h says.
#pragma once

#include "dataplane/net/port/ethdev_port.h"

#include <array>
#include <bit>
#include <memory>
#include <mutex>
#include <string_view>

struct rte_device;
struct rte_eth_conf;
struct rte_eth_dev_info;
struct rte_mbuf;
struct rte_mempool;

namespace dataplane::net {

inline constexpr std::size_t attachment_bytes_max = 64; // beside an mbuf that a slab is attached to

/// What drivers do other than they say (tcp.md §2.6).
struct Quirks {
    bool no_offloads = false;  // it computes in software itself, slower than we do
    bool shares_mbufs = false; // whoever receives frees our mbufs
    bool no_attach = false;    // reads only its own memory
    bool any_length = false;   // carries what its buffers hold, and says 1518
};
[[nodiscard]] Quirks quirks_of(std::string_view driver, std::string_view arguments);

[[nodiscard]] PortError device_error(PortErrorKind kind, const std::string& device,
                                     const std::string& what);

/// What all queues of a device share; written before the shards start, only read afterwards, but for
/// `areas`.
struct EthdevPort::State {
    State();
    ~State();

    std::uint16_t device = 0;
    EthdevOptions options;
    EthdevReport report;
    std::unique_ptr<rte_eth_dev_info> found;
    Quirks quirks;
    bool receive_checksum = false;
    bool transmit_ip_checksum = false;
    bool transmit_tcp_checksum = false;
    bool transmit_udp_checksum = false;
    bool tso = false;
    bool multi_segment = false;
    bool attach = false;
    bool reads_by_iova = false;             // a device with DMA: slabs must be registered
    std::size_t segments_per_frame_max = 0; // buffers; 0: any number
    std::size_t segments_per_cut_max = 0;   // of a frame that the device cuts
    std::vector<std::uint8_t> rss_key;
    std::vector<std::uint16_t> rss_table;
    std::string why_not_spread; // empty: one queue was asked for, or the device spreads
    bool started = false;
    std::mutex areas_mutex; // shards register their own as they start
    std::vector<std::span<std::byte>> areas;
    std::vector<std::unique_ptr<Queue>> queues;
    std::vector<std::unique_ptr<Queue>>
        given_up; // of a start with more queues than RSS was found for

    [[nodiscard]] std::expected<void, PortError> open();
    [[nodiscard]] std::expected<void, PortError> look();
    [[nodiscard]] std::expected<void, PortError> check_options();
    [[nodiscard]] std::expected<void, PortError> bring_up();
    [[nodiscard]] std::expected<void, PortError> set_up_queues(const rte_eth_conf& conf);
    void follow_interface_mtu();
    void choose_features(std::uint64_t& receive_offloads, std::uint64_t& transmit_offloads);
    void ask_driver();
    [[nodiscard]] std::string why_rss_is_not_offered() const;
    void read_rss();
    [[nodiscard]] std::string read_table(); // why it is of no use; empty: it is
    [[nodiscard]] const char* why_not(bool wanted) const noexcept;
    void feature(std::string name, bool device_does, std::string why) {
        report.features.push_back(
            {std::move(name), device_does, device_does ? "" : std::move(why)});
    }
    [[nodiscard]] bool map(std::span<std::byte> area) noexcept;
    void unmap_all() noexcept;
};

class EthdevPort::Queue final : public Port {
public:
    Queue(State& device, std::uint16_t index) : device_(device), index_(index) {}
    ~Queue() override;
    [[nodiscard]] std::expected<void, PortError> make_pools();
    [[nodiscard]] rte_mempool* receive_pool() const noexcept { return receive_pool_.get(); }
    [[nodiscard]] rte_mempool* transmit_pool() const noexcept { return transmit_pool_.get(); }
    void started();
    void drop_waiting() noexcept;

    [[nodiscard]] const PortInfo& info() const noexcept override { return info_; }
    [[nodiscard]] std::optional<RssLayout> rss_layout() const noexcept override {
        if (!info_.rss) return std::nullopt;
        return RssLayout{.key = device_.rss_key, .table = device_.rss_table};
    }
    [[nodiscard]] std::size_t receive(std::span<ReceivedFrame> frames) noexcept override;
    void release(std::span<const ReceivedFrame> frames) noexcept override;
    [[nodiscard]] SendResult send(const TransmitFrame& frame) noexcept override;
    [[nodiscard]] std::size_t send_room() const noexcept override;
    void flush() noexcept override;
    [[nodiscard]] const PortCounters& counters() const noexcept override;
    bool register_memory(std::span<std::byte> arena) noexcept override;
    [[nodiscard]] bool settle() noexcept override;

private:
    static_assert(std::has_single_bit(transmit_wait_max), "the ring index wraps with a mask");
    static constexpr std::size_t wait_mask = transmit_wait_max - 1;

    [[nodiscard]] std::size_t waiting() const noexcept { return tail_ - head_; }
    [[nodiscard]] std::size_t wait_room(bool control) const noexcept {
        const std::size_t limit = transmit_wait_max - (control ? 0 : transmit_wait_control);
        return limit > waiting() ? limit - waiting() : 0;
    }
    [[nodiscard]] rte_mbuf* allocate(bool control) noexcept;
    [[nodiscard]] bool device_reads(const base::Slab& slab) const noexcept;
    [[nodiscard]] bool can_attach(std::span<const FrameSlice> payload,
                                  std::uint32_t bytes) const noexcept;
    [[nodiscard]] rte_mbuf* attach(const FrameSlice& slice) noexcept;
    /// What one mbuf chain is made of: a TransmitFrame itself, or a piece of one.
    struct Piece {
        std::span<const std::byte> header;
        std::span<const FrameSlice> payload;
        std::uint32_t payload_bytes = 0;
    };
    /// Stages one piece, checksums in it or asked for; false when a pool is empty.
    [[nodiscard]] bool stage(const Piece& piece, const TransmitFrame& frame,
                             bool device_cuts) noexcept;
    [[nodiscard]] rte_mbuf* build(const Piece& piece, const TransmitFrame& frame, bool attached,
                                  bool device_cuts) noexcept;
    /// \param header  the copy in the mbuf
    void ask_for_offloads(rte_mbuf* mbuf, std::span<std::byte> header, const Piece& piece,
                          const TransmitFrame& frame, bool device_cuts) noexcept;
    [[nodiscard]] bool device_can_cut(const TransmitFrame& frame,
                                      std::uint32_t bytes) const noexcept;
    void prepare_waiting() noexcept;
    void reclaim() noexcept;
    void check_verdict(const rte_mbuf& mbuf, ReceivedFrame& frame) noexcept;
    void read_device_counters() noexcept;
    [[nodiscard]] static std::uint32_t available(rte_mempool* pool) noexcept;

    struct PoolFree {
        void operator()(rte_mempool* pool) const noexcept;
    };
    using PoolHandle = std::unique_ptr<rte_mempool, PoolFree>;

    State& device_;
    std::uint16_t index_;
    PortInfo info_;
    PoolHandle receive_pool_;
    PoolHandle transmit_pool_;
    PoolHandle attach_pool_;
    PoolHandle control_pool_;
    std::uint16_t transmit_data_room_ = 0;
    // Frames on their way to the device: [head_, prepared_) may go, [prepared_, tail_) not yet.
    std::array<rte_mbuf*, transmit_wait_max> wait_ring_{};
    std::size_t head_ = 0;
    std::size_t prepared_ = 0;
    std::size_t tail_ = 0;
    std::size_t tried_at_ = 0;                // tail_ at the last try that the device cut short
    std::vector<std::span<std::byte>> areas_; // the shard's own that the device reads in place
    bool settled_ = false;                    // its sending was stopped
    bool asks_offloads_ = false;
    bool can_reclaim_ = true;
    bool reclaimed_this_turn_ = false;
    bool trusts_verdicts_ = false;
    std::uint32_t verdicts_left_ = verdict_checks;
    std::uint32_t turns_ = 0;
    std::uint64_t slabs_held_ = 0;
    mutable PortCounters counters_;
};

} // namespace dataplane::net
