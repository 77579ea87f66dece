#include "dataplane/net/stack/steering.h"

#include "dataplane/net/port/frame_cut.h"
#include "dataplane/net/stack/port_allocator.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace dataplane::net::stack {
namespace {

constexpr std::size_t hub_frames_per_receive = 256; // looked at for others before a turn goes on

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
    FrameLane in{steering_ring_frames};                 // shard 0 to the shard
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
        static_cast<void>(port.register_memory(slabs_->arena()));
    }
    ~HubPort() override {
        if (slabs_->free_count() != slabs_->slab_count()) {
            static_cast<void>(slabs_.release()); // never freed: the device may still be reading it
        }
    }

    [[nodiscard]] const PortInfo& info() const noexcept override { return info_; }
    [[nodiscard]] std::size_t receive(std::span<ReceivedFrame> frames) noexcept override {
        send_for_others();
        // What is for others leaves room for more of ours: a burst of theirs does not end our turn.
        std::size_t kept = 0;
        for (std::size_t seen = 0; kept < frames.size() && seen < hub_frames_per_receive;) {
            const std::span<ReceivedFrame> room = frames.subspan(kept);
            const std::size_t count = port_.receive(room);
            seen += count;
            for (std::size_t i = 0; i < count; ++i) {
                const ReceivedFrame frame = room[i];
                if (steer(frame)) {
                    frames[kept++] = frame;
                } else {
                    port_.release({&frame, 1});
                }
            }
            if (count < room.size()) break;
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
    bool register_memory(std::span<std::byte> arena) noexcept override {
        return port_.register_memory(arena);
    }
    [[nodiscard]] bool settle() noexcept override { return port_.settle(); }

    SteeringCounters steering;

private:
    /// Hands a frame to whom it is for; true when that is (also) shard 0.
    [[nodiscard]] bool steer(const ReceivedFrame& frame) noexcept {
        const FrameKind kind = kind_of(frame.bytes);
        switch (kind.is) {
        case FrameKind::Is::segment:
        case FrameKind::Is::error: {
            const unsigned owner = placement_.owner(kind.flow);
            if (owner == 0) return true;
            lanes_[owner - 1]->in.put(frame, steering);
            return false;
        }
        case FrameKind::Is::fragment:
        case FrameKind::Is::neighbour_answer:
            for (const std::unique_ptr<Lane>& lane : lanes_)
                lane->in.put(frame, steering);
            return true;
        case FrameKind::Is::other:
            return true;
        }
        return true;
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
    SpokePort(const Port& port, Lane& lane, unsigned shard)
        : lane_(lane), reader_({&lane.in}), info_(port.info()) {
        info_.rss = false;
        info_.tso = false;
        info_.queue = static_cast<std::uint16_t>(shard);
        counters_.buffers_total = lane_.out.capacity();
    }

    [[nodiscard]] const PortInfo& info() const noexcept override { return info_; }
    [[nodiscard]] std::size_t receive(std::span<ReceivedFrame> frames) noexcept override {
        const std::size_t count = reader_.receive(frames);
        for (const ReceivedFrame& frame : frames.first(count))
            counters_.bytes_in += frame.bytes.size();
        counters_.frames_in += count;
        return count;
    }
    void release(std::span<const ReceivedFrame> frames) noexcept override {
        for (const ReceivedFrame& frame : frames)
            static_cast<void>(reader_.release(frame));
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
    Lane& lane_;
    LaneReader reader_;
    PortInfo info_;
    mutable PortCounters counters_;
};

Steering::Steering(Port& port, unsigned shard_count) {
    CHECK(shard_count >= 1);
    CHECK(port.info().mtu <= steered_mtu_max);
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

} // namespace dataplane::net::stack
