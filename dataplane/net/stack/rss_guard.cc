#include "dataplane/net/stack/rss_guard.h"

#include "dataplane/base/check.h"
#include "dataplane/net/stack/port_allocator.h"

#include <array>
#include <optional>
#include <utility>

namespace dataplane::net::stack {

class RssGuard::QueuePort final : public Port {
public:
    QueuePort(Port& queue, unsigned shard, std::vector<FrameLane*> to, std::vector<FrameLane*> from)
        : queue_(queue), shard_(shard), to_(std::move(to)), reader_(std::move(from)) {
        const auto layout = queue.rss_layout();
        CHECK(layout);
        placement_.emplace(layout->key, layout->table, static_cast<std::uint16_t>(shard));
    }

    [[nodiscard]] const PortInfo& info() const noexcept override { return queue_.info(); }
    [[nodiscard]] std::optional<RssLayout> rss_layout() const noexcept override {
        return queue_.rss_layout();
    }
    [[nodiscard]] std::size_t receive(std::span<ReceivedFrame> frames) noexcept override {
        std::size_t kept = reader_.receive(frames);
        const std::size_t end = kept + queue_.receive(frames.subspan(kept));
        for (std::size_t i = kept; i < end; ++i) {
            const ReceivedFrame frame = frames[i];
            if (keep(frame)) {
                frames[kept++] = frame;
            } else {
                queue_.release({&frame, 1});
            }
        }
        return kept;
    }
    void release(std::span<const ReceivedFrame> frames) noexcept override {
        // Those of other shards stand in front.
        while (!frames.empty() && reader_.release(frames.front()))
            frames = frames.subspan(1);
        if (!frames.empty()) queue_.release(frames);
    }
    [[nodiscard]] SendResult send(const TransmitFrame& frame) noexcept override {
        return queue_.send(frame);
    }
    [[nodiscard]] std::size_t send_room() const noexcept override { return queue_.send_room(); }
    void flush() noexcept override { queue_.flush(); }
    [[nodiscard]] const PortCounters& counters() const noexcept override {
        return queue_.counters();
    }
    bool register_memory(std::span<std::byte> arena) noexcept override {
        return queue_.register_memory(arena);
    }
    [[nodiscard]] bool settle() noexcept override { return queue_.settle(); }

    [[nodiscard]] bool proved(bool v6) const noexcept { return proofs_[v6 ? 1 : 0] == rss_proofs; }
    SteeringCounters steering;

private:
    [[nodiscard]] bool keep(const ReceivedFrame& frame) noexcept {
        bool v6 = false;
        if (is_plain_segment(frame.bytes, v6) && proved(v6)) return true;
        const FrameKind kind = kind_of(frame.bytes);
        switch (kind.is) {
        case FrameKind::Is::segment:
        case FrameKind::Is::error: {
            const unsigned owner = placement_->owner(kind.flow);
            if (kind.is == FrameKind::Is::segment) judge(kind.flow.local.is_v6(), owner == shard_);
            if (owner == shard_) return true;
            to_[owner]->put(frame, steering);
            return false;
        }
        case FrameKind::Is::fragment:
            for (FrameLane* const lane : to_) {
                if (lane != nullptr) lane->put(frame, steering);
            }
            return true;
        case FrameKind::Is::neighbour_answer: // what it says is told: NeighbourExchange
        case FrameKind::Is::other:
            return true;
        }
        return true;
    }
    void judge(bool v6, bool right) noexcept {
        std::uint32_t& proofs = proofs_[v6 ? 1 : 0];
        if (!right) proofs = rss_proofs + 1; // never believed again
        if (proofs < rss_proofs) ++proofs;
    }

    Port& queue_;
    unsigned shard_;
    std::vector<FrameLane*> to_; // by shard; null: ourselves
    LaneReader reader_;
    std::optional<Placement> placement_;
    std::array<std::uint32_t, 2> proofs_{}; // IPv4, IPv6
};

RssGuard::RssGuard(std::span<Port* const> queues) {
    const std::size_t count = queues.size();
    for (std::size_t from = 0; from < count; ++from) {
        for (std::size_t to = 0; to < count; ++to)
            lanes_.push_back(from == to ? nullptr : std::make_unique<FrameLane>(stray_ring_frames));
    }
    for (std::size_t shard = 0; shard < count; ++shard) {
        std::vector<FrameLane*> to, from;
        for (std::size_t other = 0; other < count; ++other) {
            to.push_back(lanes_[shard * count + other].get());
            if (other != shard) from.push_back(lanes_[other * count + shard].get());
        }
        ports_.push_back(std::make_unique<QueuePort>(*queues[shard], static_cast<unsigned>(shard),
                                                     std::move(to), std::move(from)));
    }
}

RssGuard::~RssGuard() = default;

Port& RssGuard::port(unsigned shard) noexcept {
    return *ports_[shard];
}

const SteeringCounters& RssGuard::counters(unsigned shard) const noexcept {
    return ports_[shard]->steering;
}

bool RssGuard::proved(unsigned shard, bool v6) const noexcept {
    return ports_[shard]->proved(v6);
}

} // namespace dataplane::net::stack
