// engine.h: the working parts of a Stack: from frames to connections and back.
//
// Scope      Input (frames to segments to connections), output (connections to segments to frames), timers,
//            opening and ending. Waiting and handles are tcp_stream.h's and listen_port.h's.
// Owns       Every Tcb, the flow table, TIME_WAIT, the IP layer, both slab pools.
// Threading  One shard. User code is never resumed from in here: whoever is woken runs in the loop's turn.
// Failure    What comes from outside is answered or dropped, and counted.
//
// A turn: poll() takes frames and runs timers, which wakes coroutines; the loop runs them; at the turn's end
// every connection that was marked sends what it has. So an answer and the ACK of its question leave in
// one segment, and what several writes staged as one burst.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/slab.h"
#include "dataplane/net/ip/layer.h"
#include "dataplane/net/stack/deadline_wheel.h"
#include "dataplane/net/stack/flow_table.h"
#include "dataplane/net/stack/listen_port.h"
#include "dataplane/net/stack/port_allocator.h"
#include "dataplane/net/stack/stack.h"
#include "dataplane/net/stack/tcb.h"
#include "dataplane/net/stack/time_wait.h"
#include "dataplane/net/tcp/syn_cookie.h"

#include <deque>
#include <random>
#include <unordered_map>
#include <vector>

namespace dataplane::net::stack {

class Engine final : private base::TurnEnd {
public:
    Engine(base::Loop& loop, Port& port, ip::LayerOptions ip, const StackOptions& options);
    ~Engine() override;

    std::size_t poll();
    [[nodiscard]] base::TimePoint next_due() const noexcept;
    [[nodiscard]] base::Loop& loop() noexcept { return loop_; }
    [[nodiscard]] const StackOptions& options() const noexcept { return options_; }

    // --- opening
    /// A new connection of ours towards `remote`, its SYN to be sent at the turn's end.
    [[nodiscard]] base::NetResult<base::Ref<Tcb>> open(const base::SocketAddress& remote,
                                                       std::optional<base::IpAddress> source);
    [[nodiscard]] base::NetResult<base::Ref<ListenPort>> listen(const base::SocketAddress& local,
                                                                const base::ListenOptions& options);
    void unlisten(ListenPort& listener) noexcept;

    // --- what Streams ask for
    /// It may have something to send: looked at when the turn ends.
    void mark(Tcb& tcb) noexcept;
    void mark_if_wanted(Tcb& tcb) noexcept;
    /// Wakes its writer when the pool of send slabs has some again.
    void wait_for_send_slab(Tcb& tcb);
    void close(Tcb& tcb) noexcept;
    void abort(Tcb& tcb) noexcept;

    // --- to be seen
    [[nodiscard]] StackStatistics statistics() const noexcept;
    [[nodiscard]] std::size_t list(std::span<ConnectionView> views, std::size_t& cursor) const;
    [[nodiscard]] std::size_t live_count() const noexcept { return live_count_; }
    /// Walks everything and holds it against what must be so; for tests.
    void debug_check() const noexcept;
    [[nodiscard]] ip::Layer& ip() noexcept { return ip_; }
    void learn(const base::IpAddress& ip, const MacAddress& mac) {
        ip_.learn(ip, mac, loop_.now());
        loop_.at_turn_end(*this); // looks at when what was learned expires
    }
    StackCounters counters;

private:
    friend class Tcb;
    // In the flow table a number with this bit is a TIME_WAIT record's, otherwise a Tcb's.
    static constexpr std::uint32_t time_wait_bit = 1U << 31;

    struct Arrival { // one segment of a burst
        FlowKey key;
        std::uint64_t hash = 0;
        tcp::Segment segment;
    };
    struct
        Burst { // what one look at the port gave; reused, for clearing it costs more than filling it
        std::array<ReceivedFrame, receive_burst_max> frames;
        std::array<Arrival, receive_burst_max> arrivals;
    };
    struct Slot {
        alignas(Tcb) std::byte bytes[sizeof(Tcb)];
    };
    struct Chunk {
        std::array<Slot, connections_per_chunk> slots;
        std::array<bool, connections_per_chunk> live{};
    };
    struct Answer { // to a segment of no connection
        FlowKey key;
        std::array<std::byte, tcp::header_bytes_max> bytes;
        std::size_t length = 0;
    };
    struct Parking { // what waits for a next hop's address
        Parking() noexcept { connections.make_head(); }
        base::detail::Link connections;
        std::unique_ptr<Answer> answer; // the latest
    };
    struct HashAddress {
        std::array<std::uint64_t, 2> seed;
        [[nodiscard]] std::size_t operator()(const base::IpAddress& ip) const noexcept {
            return static_cast<std::size_t>(flow_hash({ip, ip, 0, 0}, seed));
        }
    };
    struct Tick : base::Timer {
        explicit Tick(Engine& owner) noexcept : base::Timer(&Engine::on_tick), engine(owner) {}
        Engine& engine;
    };
    enum class Put : std::uint8_t { done, more, stalled, parked };

    // Tcbs.
    [[nodiscard]] Tcb* tcb(std::uint32_t index) const noexcept;
    [[nodiscard]] base::Ref<Tcb> take_tcb();
    void give_back(Tcb& tcb) noexcept;
    void attach(Tcb& tcb);
    void detach(Tcb& tcb) noexcept;

    // Flows.
    [[nodiscard]] FlowKey key_of(std::uint32_t value) const noexcept;
    [[nodiscard]] std::uint64_t hash_of(const FlowKey& key) const noexcept {
        return flow_hash(key, flow_seed_);
    }
    [[nodiscard]] std::optional<std::uint32_t> find(const FlowKey& key,
                                                    std::uint64_t hash) const noexcept;
    [[nodiscard]] bool in_use(const FlowKey& key) const noexcept {
        return find(key, hash_of(key)).has_value();
    }

    // Input.
    void take_frames(std::span<const ReceivedFrame> frames);
    [[nodiscard]] bool classify(const ip::Datagram& datagram, Arrival& arrival);
    void deliver(const Arrival& arrival);
    void prefetch_connection(const Arrival& arrival) const noexcept;
    void deliver_error(const ip::TransportError& error);
    void to_time_wait_record(std::uint32_t number, const Arrival& arrival);
    void to_listener(const Arrival& arrival, std::optional<tcp::Seq> beyond);
    void send_cookie(const Arrival& arrival);
    [[nodiscard]] bool take_cookie(ListenPort& listener, const Arrival& arrival);
    void refuse(const Arrival& arrival);
    void answer(const FlowKey& key, const tcp::Header& header);
    [[nodiscard]] ip::Sent send_answer(const Answer& answer);
    void hold_answer(const Answer& answer);
    [[nodiscard]] ListenPort* listener_for(const FlowKey& key) const noexcept;

    // Connections' events.
    void settle(Tcb& tcb) noexcept;
    void on_established(Tcb& tcb) noexcept;
    void drop_input(Tcb& tcb) noexcept;
    [[nodiscard]] base::TimePoint close_due(const Tcb& tcb) const noexcept;
    void add_orphan(Tcb& tcb) noexcept;
    void remove_orphan(Tcb& tcb) noexcept;
    void end(Tcb& tcb) noexcept;
    void enter_time_wait(Tcb& tcb) noexcept;

    // Timers.
    void run_timers(base::TimePoint now) noexcept;
    void rearm(Tcb& tcb) noexcept;
    void join_output(Tcb& tcb) noexcept;
    void leave_output(Tcb& tcb) noexcept;
    void arm_tick() noexcept;
    static void on_tick(base::Timer& timer) noexcept;

    // Output.
    void turn_end() noexcept override;
    void put_out() noexcept;
    [[nodiscard]] Put put_out(Tcb& tcb, unsigned& budget) noexcept;
    [[nodiscard]] ip::Sent send(Tcb& tcb, const tcp::Outgoing& out) noexcept;
    [[nodiscard]] bool collect(const Tcb& tcb, const tcp::Outgoing& out) noexcept;
    [[nodiscard]] bool collect_copy(const Tcb& tcb, const tcp::Outgoing& out) noexcept;
    void park(Tcb& tcb);
    void fail(Tcb& tcb, base::NetError error) noexcept;
    void on_neighbour(const base::IpAddress& next_hop, bool resolved);

    [[nodiscard]] static std::uint16_t mss_of(const FlowKey& key, const ip::Path& path) noexcept;
    [[nodiscard]] tcp::Seq first_sequence(const FlowKey& key) const noexcept;
    [[nodiscard]] std::uint32_t ts_offset(const FlowKey& key) const noexcept;
    [[nodiscard]] base::NetResult<FlowKey> choose_source(const base::SocketAddress& remote,
                                                         std::optional<base::IpAddress> source);

    base::Loop& loop_;
    Port& port_;
    const StackOptions options_;
    const std::vector<ip::LayerOptions::Address> addresses_;
    std::minstd_rand random_;
    base::SlabPool receive_slabs_;
    std::unique_ptr<base::SlabPool>
        send_slabs_; // given up when the port still holds some at our end
    tcp::ConnectionCounters tcp_counters_;
    tcp::Environment environment_;
    ip::Layer ip_;
    std::array<std::uint64_t, 2> flow_seed_;
    Placement placement_;
    PortAllocator ports_;
    tcp::SynCookies cookies_;
    base::TimePoint last_cookie_at_ = base::TimePoint::min();

    std::vector<std::unique_ptr<Chunk>> chunks_;
    std::vector<std::uint32_t> free_;
    std::size_t live_count_ = 0;
    std::size_t half_open_ = 0;
    FlowTable flows_;
    TimeWait time_wait_;
    std::vector<ListenPort*> listeners_;

    const std::unique_ptr<Burst> burst_ = std::make_unique<Burst>();
    DeadlineWheel wheel_;
    Tick tick_;
    base::TimePoint tick_at_ = base::TimePoint::max();

    base::detail::Link output_;
    std::unordered_map<base::IpAddress, Parking, HashAddress> parkings_; // by next hop
    std::size_t held_answers_ = 0;
    std::deque<base::Ref<Tcb>> starved_;
    std::uint32_t oldest_orphan_ = Tcb::no_orphan;
    std::uint32_t newest_orphan_ = Tcb::no_orphan;
    std::size_t orphan_count_ = 0;
    bool stalled_ = false;
    base::TimePoint stalled_until_ = base::TimePoint::max();
    // Of the segment that is being sent.
    std::array<base::SlabView, payload_slices_max> views_;
    std::array<FrameSlice, frame_slices_max> slices_{};
    std::size_t slice_count_ = 0;
    std::size_t send_room_ = 0; // as last asked, less what was sent since
    double reset_tokens_ = resets_per_second;
    base::TimePoint reset_tokens_at_;
};

} // namespace dataplane::net::stack
