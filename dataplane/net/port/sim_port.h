// sim_port.h: one end of a SimLink: a NIC queue pair made of memory and a seed.
//
// Scope      What a driver does to the layers above: it cuts, sums, keeps slabs until it says they are
//            sent, runs out of buffers, fills its ring, gets stuck, spreads by RSS. Frames travel in
//            sim_link.h.
// Owns       Received frames until release(); references to the slabs of frames not yet completed.
// Threading  One thread, with the whole link.
// Failure    As Port says. Slab bytes that change before their frame completes are counted in
//            rewritten_in_flight: a NIC would have sent either version. Freed receive buffers, and
//            freed slabs nobody else holds, are scribbled over.
#pragma once

#include "dataplane/base/clock.h"
#include "dataplane/base/slab.h"
#include "dataplane/net/port/frame_cut.h"
#include "dataplane/net/port/frame_view.h"
#include "dataplane/net/port/impairment.h"
#include "dataplane/net/port/port.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace dataplane::net {

class SimLink;

struct SimPortOptions {
    std::string name = "sim";
    MacAddress mac{0x02, 0, 0, 0, 0, 1};
    std::uint16_t mtu = 1500;
    std::uint16_t queue_count = 1; // above 1: spread by rss_key and rss_table
    bool transmit_checksum = true; // what info() claims; the frames are right either way
    bool receive_checksum = true;  // received frames say good or bad, instead of unknown
    bool tso = true;
    std::vector<std::uint8_t> rss_key{rss_key_default.begin(), rss_key_default.end()};
    std::vector<std::uint16_t> rss_table; // a power of two long; empty: 128 entries in turn
    std::size_t frame_bytes_min = 60;     // shorter frames are padded with zeros, as on Ethernet
    std::uint32_t transmit_buffers = 4096;
    std::uint32_t control_reserve = control_reserve_min; // of transmit_buffers
    std::uint32_t transmit_ring = 1024;
    std::uint32_t receive_ring = 1024;
    std::uint32_t receive_buffers = 4096;
    base::Duration completion_delay{0}; // from flush() until slabs are given back
    bool scribble = true;
};

/// What is wrong with the device, changed at any time.
struct SimFaults {
    bool stuck = false;              // takes nothing: frames wait in its ring
    bool no_buffers = false;         // for data
    bool no_control_buffers = false; // for control
    bool ring_full = false;          // for all
};

/// A queue whose elements are used again, with whatever memory they hold: thousands of simulated seconds
/// are not to be spent in the allocator.
template <class T>
class ReusedQueue {
public:
    [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
    [[nodiscard]] std::size_t size() const noexcept { return count_; }
    [[nodiscard]] T& operator[](std::size_t index) noexcept {
        return elements_[(head_ + index) & (elements_.size() - 1)];
    }
    [[nodiscard]] const T& front() const noexcept { return elements_[head_]; }
    [[nodiscard]] T& front() noexcept { return elements_[head_]; }
    /// The new last element, as its last use left it.
    [[nodiscard]] T& push_back() {
        if (count_ == elements_.size()) {
            std::vector<T> larger(std::max<std::size_t>(16, elements_.size() * 2));
            for (std::size_t i = 0; i < count_; ++i)
                larger[i] = std::move((*this)[i]);
            elements_ = std::move(larger);
            head_ = 0;
        }
        return (*this)[count_++];
    }
    void pop_back() noexcept { --count_; }
    void pop_front() noexcept {
        head_ = (head_ + 1) & (elements_.size() - 1);
        --count_;
    }

private:
    std::vector<T> elements_; // a power of two
    std::size_t head_ = 0;
    std::size_t count_ = 0;
};

class SimPort final : public Port {
public:
    SimPort(SimLink& link, unsigned side, std::uint16_t queue, const SimPortOptions& options);
    ~SimPort() override;
    SimPort(const SimPort&) = delete;
    SimPort& operator=(const SimPort&) = delete;

    [[nodiscard]] const PortInfo& info() const noexcept override { return info_; }
    [[nodiscard]] std::optional<RssLayout> rss_layout() const noexcept override;
    [[nodiscard]] std::size_t receive(std::span<ReceivedFrame> frames) noexcept override;
    void release(std::span<const ReceivedFrame> frames) noexcept override;
    [[nodiscard]] SendResult send(const TransmitFrame& frame) noexcept override;
    [[nodiscard]] std::size_t send_room() const noexcept override;
    void flush() noexcept override;
    [[nodiscard]] const PortCounters& counters() const noexcept override;

    [[nodiscard]] SimFaults& faults() noexcept { return faults_; }
    /// Frames whose slabs had other bytes at completion than when they were sent.
    [[nodiscard]] std::uint64_t rewritten_in_flight() const noexcept {
        return rewritten_in_flight_;
    }
    [[nodiscard]] std::size_t received_waiting() const noexcept { return received_.size(); }

private:
    friend class SimLink;
    struct Outgoing {
        std::vector<base::SlabRef> slabs;
        std::vector<FrameSlice> slices;
        std::vector<LineFrame> frames; // until flushed
        std::size_t buffer_count = 0;
        std::uint64_t payload_hash = 0;
        base::TimePoint done_at{};
    };
    [[nodiscard]] bool make_frames(const TransmitFrame& frame, Outgoing& out) noexcept;
    void accept(LineFrame frame) noexcept; // from the link
    void complete(base::TimePoint now) noexcept;
    [[nodiscard]] base::TimePoint next_completion() const noexcept;
    [[nodiscard]] std::size_t buffers_left(bool control) const noexcept;
    [[nodiscard]] std::size_t ring_left(bool control) const noexcept;

    SimLink& link_;
    unsigned side_;
    const SimPortOptions& options_;
    PortInfo info_;
    mutable PortCounters counters_;
    SimFaults faults_;
    // First those in flight, whose done_at never falls, then those staged.
    ReusedQueue<Outgoing> outgoing_;
    std::size_t in_flight_count_ = 0;
    std::size_t staged_frames_ = 0;
    std::size_t buffers_used_ = 0;
    std::uint64_t rewritten_in_flight_ = 0;
    ReusedQueue<LineFrame> received_;
    std::vector<base::SlabRef> lent_; // handle is the index + 1
    std::vector<std::uint32_t> lent_free_;
};

} // namespace dataplane::net
