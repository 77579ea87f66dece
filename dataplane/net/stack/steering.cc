#include "dataplane/net/stack/steering.h"

#include "dataplane/net/port/frame_cut.h"
#include "dataplane/net/port/frame_view.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

namespace dataplane::net::stack {
namespace {

constexpr unsigned everybody = ~0U;
constexpr std::size_t ethernet_bytes = 14;
constexpr std::uint8_t protocol_icmp = 1, protocol_tcp = 6, protocol_icmp6 = 58;
constexpr std::uint8_t icmp6_neighbour_advertisement = 136;
constexpr std::size_t icmp_error_header_bytes = 8;

unsigned byte_at(std::span<const std::byte> bytes, std::size_t at) noexcept {
    return at < bytes.size() ? std::to_integer<unsigned>(bytes[at]) : 0;
}

bool is_icmp_error(const FrameView& view, unsigned type) noexcept {
    if (view.protocol == protocol_icmp) return type == 3 || type == 11 || type == 12;
    return view.protocol == protocol_icmp6 && type >= 1 && type <= 4;
}

/// The flow of ours that an ICMP error quotes.
std::optional<FlowKey> quoted_flow(std::span<const std::byte> frame,
                                   const FrameView& outer) noexcept {
    const std::size_t at = outer.l4_at + icmp_error_header_bytes;
    if (at >= frame.size()) return std::nullopt;
    // The quoted packet has lost its Ethernet header: one is made for the view.
    std::array<std::byte, 128> inner{};
    const std::size_t bytes = std::min(frame.size() - at, inner.size() - ethernet_bytes);
    inner[12] = std::byte{static_cast<std::uint8_t>(outer.v6 ? 0x86 : 0x08)};
    inner[13] = std::byte{static_cast<std::uint8_t>(outer.v6 ? 0xdd : 0x00)};
    std::memcpy(inner.data() + ethernet_bytes, frame.data() + at, bytes);
    const auto view = view_headers({inner.data(), ethernet_bytes + bytes});
    if (!view || view->protocol != protocol_tcp) return std::nullopt;
    return FlowKey{view->source, view->destination, view->source_port, view->destination_port};
}

/// Which shard a received frame is for.
unsigned owner_of(std::span<const std::byte> frame, const Placement& placement) noexcept {
    const auto view = view_frame(frame);
    if (!view) {
        const std::size_t tag = byte_at(frame, 12) == 0x81 && byte_at(frame, 13) == 0 ? 4 : 0;
        const bool arp = byte_at(frame, 12 + tag) == 0x08 && byte_at(frame, 13 + tag) == 0x06;
        const bool reply = byte_at(frame, ethernet_bytes + tag + 7) == 2;
        return arp && reply ? everybody : 0;
    }
    if (view->fragment) return 0;
    if (view->protocol == protocol_tcp) {
        return placement.owner(
            {view->destination, view->source, view->destination_port, view->source_port});
    }
    const unsigned type = byte_at(frame, view->l4_at);
    if (view->protocol == protocol_icmp6 && type == icmp6_neighbour_advertisement) return everybody;
    if (is_icmp_error(*view, type)) {
        if (const auto flow = quoted_flow(frame, *view)) return placement.owner(*flow);
    }
    return 0;
}

struct Inbound {
    std::uint32_t bytes = 0;
    ChecksumState ip_checksum = ChecksumState::unknown;
    ChecksumState l4_checksum = ChecksumState::unknown;
    std::array<std::byte, steered_frame_bytes_max> frame;
};

struct Outbound { // one frame of the wire
    std::uint16_t header_bytes = 0;
    std::uint16_t payload_bytes = 0;
    std::uint16_t l2_bytes = 0, l3_bytes = 0, l4_bytes = 0;
    bool ipv4_checksum = false;
    L4 l4_checksum = L4::none;
    bool control = false;
    std::array<std::byte, frame_header_bytes_max> header;
    std::array<std::byte, steered_frame_bytes_max> payload;
};

} // namespace

struct Steering::Lane {
    base::SpscRing<Inbound> in{steering_ring_frames};   // shard 0 to the shard
    base::SpscRing<Outbound> out{steering_ring_frames}; // and back
};

/// Shard 0's view of the port: its own frames only, while it serves the others.
class Steering::HubPort final : public Port {
public:
    HubPort(Port& port, std::vector<std::unique_ptr<Lane>>& lanes)
        : port_(port), lanes_(lanes), placement_(static_cast<unsigned>(lanes.size()) + 1, 0),
          slabs_(
              std::make_unique<base::SlabPool>(static_cast<std::uint32_t>(steered_frame_bytes_max),
                                               static_cast<std::uint32_t>(steering_ring_frames))),
          info_(port.info()) {
        info_.rss = false;
    }
    ~HubPort() override {
        if (slabs_->free_count() != slabs_->slab_count()) {
            static_cast<void>(slabs_.release()); // never freed: the device may still be reading it
        }
    }

    [[nodiscard]] const PortInfo& info() const noexcept override { return info_; }
    [[nodiscard]] std::size_t receive(std::span<ReceivedFrame> frames) noexcept override {
        send_for_others();
        const std::size_t count = port_.receive(frames);
        std::size_t kept = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const ReceivedFrame frame = frames[i];
            const unsigned owner = owner_of(frame.bytes, placement_);
            for (unsigned shard = 1; shard <= lanes_.size(); ++shard) {
                if (owner == shard || owner == everybody) forward(frame, *lanes_[shard - 1]);
            }
            if (owner == 0 || owner == everybody) {
                frames[kept++] = frame;
            } else {
                port_.release({&frame, 1});
            }
        }
        return kept;
    }
    void release(std::span<const ReceivedFrame> frames) noexcept override { port_.release(frames); }
    [[nodiscard]] SendResult send(const TransmitFrame& frame) noexcept override {
        return port_.send(frame);
    }
    [[nodiscard]] std::size_t send_room() const noexcept override { return port_.send_room(); }
    void flush() noexcept override { port_.flush(); }
    [[nodiscard]] const PortCounters& counters() const noexcept override {
        return port_.counters();
    }

    SteeringCounters steering;

private:
    void forward(const ReceivedFrame& frame, Lane& lane) noexcept {
        if (frame.bytes.size() > steered_frame_bytes_max) {
            ++steering.dropped_long;
            return;
        }
        Inbound* const slot = lane.in.claim();
        if (slot == nullptr) {
            ++steering.dropped_full;
            return;
        }
        slot->bytes = static_cast<std::uint32_t>(frame.bytes.size());
        slot->ip_checksum = frame.ip_checksum;
        slot->l4_checksum = frame.l4_checksum;
        std::memcpy(slot->frame.data(), frame.bytes.data(), frame.bytes.size());
        lane.in.publish();
        ++steering.forwarded;
    }
    void send_for_others() noexcept {
        bool any = false;
        for (const std::unique_ptr<Lane>& lane : lanes_) {
            for (std::size_t left = receive_burst_max; left > 0; --left) {
                const Outbound* const frame = lane->out.front();
                if (frame == nullptr) break;
                if (!send_one(*frame)) {
                    ++steering.sent_later;
                    break;
                }
                lane->out.release();
                ++steering.sent_for_others;
                any = true;
            }
        }
        if (any) port_.flush();
    }
    [[nodiscard]] bool send_one(const Outbound& frame) noexcept {
        base::SlabRef slab;
        FrameSlice slice;
        if (frame.payload_bytes > 0) {
            slab = slabs_->take();
            if (!slab) return false;
            std::memcpy(slab.data(), frame.payload.data(), frame.payload_bytes);
            slice = {slab.get(), 0, frame.payload_bytes};
        }
        const TransmitFrame out{.header = {frame.header.data(), frame.header_bytes},
                                .payload = {&slice, slab ? 1U : 0U},
                                .l2_bytes = frame.l2_bytes,
                                .l3_bytes = frame.l3_bytes,
                                .l4_bytes = frame.l4_bytes,
                                .ipv4_checksum = frame.ipv4_checksum,
                                .l4_checksum = frame.l4_checksum,
                                .control = frame.control};
        return port_.send(out) == SendResult::queued;
    }

    Port& port_;
    std::vector<std::unique_ptr<Lane>>& lanes_;
    Placement placement_;
    std::unique_ptr<base::SlabPool> slabs_;
    PortInfo info_;
};

/// Another shard's view: what shard 0 has put into its ring.
class Steering::SpokePort final : public Port {
public:
    SpokePort(const Port& port, Lane& lane, unsigned shard) : lane_(lane), info_(port.info()) {
        info_.rss = false;
        info_.tso = false;
        info_.queue = static_cast<std::uint16_t>(shard);
        buffers_.resize(receive_burst_max);
        for (std::size_t i = buffers_.size(); i > 0; --i)
            free_.push_back(i - 1);
        counters_.buffers_total = lane_.out.capacity();
    }

    [[nodiscard]] const PortInfo& info() const noexcept override { return info_; }
    [[nodiscard]] std::size_t receive(std::span<ReceivedFrame> frames) noexcept override {
        std::size_t count = 0;
        for (; count < frames.size() && !free_.empty(); ++count) {
            const Inbound* const slot = lane_.in.front();
            if (slot == nullptr) break;
            const std::size_t index = free_.back();
            free_.pop_back();
            std::memcpy(buffers_[index].data(), slot->frame.data(), slot->bytes);
            frames[count] = {.bytes = {buffers_[index].data(), slot->bytes},
                             .ip_checksum = slot->ip_checksum,
                             .l4_checksum = slot->l4_checksum,
                             .handle = &buffers_[index]};
            counters_.bytes_in += slot->bytes;
            lane_.in.release();
        }
        counters_.frames_in += count;
        return count;
    }
    void release(std::span<const ReceivedFrame> frames) noexcept override {
        for (const ReceivedFrame& frame : frames) {
            const auto* const buffer = static_cast<const Buffer*>(frame.handle);
            free_.push_back(static_cast<std::size_t>(buffer - buffers_.data()));
        }
    }
    [[nodiscard]] SendResult send(const TransmitFrame& frame) noexcept override {
        const std::size_t left = lane_.out.capacity() - lane_.out.size();
        const std::size_t wanted = wire_frame_count(frame);
        if (wanted + (frame.control ? 0 : steering_control_frames) > left) {
            ++counters_.ring_full;
            return SendResult::ring_full;
        }
        FrameCutter cutter{frame};
        WireFrame piece;
        while (cutter.next(piece)) {
            Outbound* const slot = lane_.out.claim();
            CHECK(slot != nullptr);
            CHECK(piece.payload_bytes <= slot->payload.size()); // the MTU was looked at
            slot->header_bytes = static_cast<std::uint16_t>(piece.header_bytes);
            slot->payload_bytes = static_cast<std::uint16_t>(piece.payload_bytes);
            slot->l2_bytes = frame.l2_bytes;
            slot->l3_bytes = frame.l3_bytes;
            slot->l4_bytes = frame.l4_bytes;
            slot->ipv4_checksum = frame.ipv4_checksum;
            slot->l4_checksum = frame.l4_checksum;
            slot->control = frame.control;
            std::memcpy(slot->header.data(), piece.header.data(), piece.header_bytes);
            std::byte* at = slot->payload.data();
            for (const FrameSlice& slice : piece.payload()) {
                std::memcpy(at, slice.slab->data + slice.offset, slice.bytes);
                at += slice.bytes;
            }
            lane_.out.publish();
            ++counters_.frames_out;
            counters_.bytes_out += piece.size_bytes();
        }
        return SendResult::queued;
    }
    [[nodiscard]] std::size_t send_room() const noexcept override {
        const std::size_t left = lane_.out.capacity() - lane_.out.size();
        return left > steering_control_frames ? left - steering_control_frames : 0;
    }
    void flush() noexcept override {} // shard 0 looks with each of its turns
    [[nodiscard]] const PortCounters& counters() const noexcept override {
        counters_.buffers_free = lane_.out.capacity() - lane_.out.size();
        return counters_;
    }

private:
    using Buffer = std::array<std::byte, steered_frame_bytes_max>;
    Lane& lane_;
    PortInfo info_;
    mutable PortCounters counters_;
    std::vector<Buffer> buffers_;
    std::vector<std::size_t> free_;
};

Steering::Steering(Port& port, unsigned shard_count) {
    CHECK(shard_count >= 1);
    CHECK(port.info().mtu + 18U <= steered_frame_bytes_max);
    for (unsigned shard = 1; shard < shard_count; ++shard)
        lanes_.push_back(std::make_unique<Lane>());
    hub_ = std::make_unique<HubPort>(port, lanes_);
    for (unsigned shard = 1; shard < shard_count; ++shard)
        spokes_.push_back(std::make_unique<SpokePort>(port, *lanes_[shard - 1], shard));
}

Steering::~Steering() = default;

Port& Steering::port(unsigned shard) noexcept {
    if (shard == 0) return *hub_;
    return *spokes_[shard - 1];
}

const SteeringCounters& Steering::counters() const noexcept {
    return hub_->steering;
}

// Neighbours

class NeighbourExchange::Box final : public base::Inbox {
public:
    bool drain() override {
        bool any = false;
        for (base::SpscRing<News>* ring : from) {
            for (std::size_t left = ring->size(); left > 0; --left) {
                const auto news = ring->pop();
                if (news && stack != nullptr) stack->learn(news->ip, news->mac);
                any = true;
            }
        }
        return any;
    }
    [[nodiscard]] bool pending() const noexcept override {
        return std::ranges::any_of(from, [](const auto* ring) { return ring->size() > 0; });
    }
    Stack* stack = nullptr;
    std::vector<base::SpscRing<News>*> from;
    std::vector<base::SpscRing<News>*> to;
};

NeighbourExchange::NeighbourExchange(unsigned shard_count, std::size_t ring_entries) {
    for (unsigned shard = 0; shard < shard_count; ++shard)
        boxes_.push_back(std::make_unique<Box>());
    for (unsigned from = 0; from < shard_count; ++from) {
        for (unsigned to = 0; to < shard_count; ++to) {
            if (from == to) continue;
            rings_.push_back(std::make_unique<base::SpscRing<News>>(ring_entries));
            boxes_[from]->to.push_back(rings_.back().get());
            boxes_[to]->from.push_back(rings_.back().get());
        }
    }
}

NeighbourExchange::~NeighbourExchange() = default;

void NeighbourExchange::attach(unsigned shard, Stack& stack) {
    Box& box = *boxes_[shard];
    box.stack = &stack;
    stack.on_learned([&box](const base::IpAddress& ip, const MacAddress& mac) {
        for (base::SpscRing<News>* ring : box.to) {
            // A full ring: the other shard asks for itself when it needs to know.
            static_cast<void>(ring->push(News{ip, mac}));
        }
    });
}

base::Inbox& NeighbourExchange::inbox(unsigned shard) noexcept {
    return *boxes_[shard];
}

} // namespace dataplane::net::stack
