#include "tests/support/sim_net.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <utility>

namespace tests {

using base::Deadline;
using base::NetError;
using base::NetResult;
using base::Task;

/// One direction of a connection. Bytes become visible to the reader `latency` after the write.
struct SimPipe {
    struct Piece {
        std::vector<std::byte> bytes;
        base::TimePoint arrives;
    };
    explicit SimPipe(base::Loop& loop) : loop(loop), arrival(&SimPipe::on_arrival) {
        arrival.pipe = this;
    }

    struct ArrivalTimer : base::Timer {
        using Timer::Timer;
        SimPipe* pipe = nullptr;
    };
    static void on_arrival(base::Timer& timer) noexcept {
        SimPipe& pipe = *static_cast<ArrivalTimer&>(timer).pipe;
        pipe.land();
    }
    void land() noexcept {
        bool woke = false;
        while (!in_flight.empty() && in_flight.front().arrives <= loop.now()) {
            auto& bytes = in_flight.front().bytes;
            arrived.insert(arrived.end(), bytes.begin(), bytes.end());
            in_flight.pop_front();
            woke = true;
        }
        if (!in_flight.empty()) {
            loop.arm(arrival, in_flight.front().arrives);
        } else if (end_at != base::TimePoint::max() && !ended) {
            if (end_at <= loop.now()) {
                ended = true;
                woke = true;
            } else {
                loop.arm(arrival, end_at);
            }
        }
        if (woke) readable.wake_all();
    }
    [[nodiscard]] std::size_t held_bytes() const {
        std::size_t total = arrived.size() - front;
        for (const Piece& piece : in_flight)
            total += piece.bytes.size();
        return total;
    }
    void fail(NetError why) {
        if (!error) error = why;
        readable.wake_all();
        writable.wake_all();
    }

    base::Loop& loop;
    std::deque<Piece> in_flight;
    std::vector<std::byte> arrived;
    std::size_t front = 0; // bytes of `arrived` that were consumed
    std::size_t shown = 0; // bytes behind `front` that the reader has been shown
    base::TimePoint end_at = base::TimePoint::max();
    bool ended = false;
    std::optional<NetError> error;
    base::WaitQueue readable{"sim read"};
    base::WaitQueue writable{"sim write"};
    ArrivalTimer arrival;
};

class SimStream final : public base::Stream {
public:
    SimStream(SimNet& net, std::shared_ptr<SimPipe> in, std::shared_ptr<SimPipe> out,
              base::StreamInfo info)
        : net_(net), in_(std::move(in)), out_(std::move(out)), info_(std::move(info)) {}
    ~SimStream() override {
        if (!closed_) abort();
    }

    std::span<const std::byte> unread() const noexcept override {
        if (closed_) return {};
        return std::span{in_->arrived}.subspan(in_->front, in_->shown);
    }
    void consume(std::size_t bytes) noexcept override {
        CHECK(bytes <= in_->shown);
        in_->front += bytes;
        in_->shown -= bytes;
        if (in_->front == in_->arrived.size()) {
            in_->arrived.clear();
            in_->front = 0;
        } else if (in_->front > 256 * 1024) {
            in_->arrived.erase(in_->arrived.begin(),
                               in_->arrived.begin() + static_cast<std::ptrdiff_t>(in_->front));
            in_->front = 0;
        }
        in_->writable.wake_all();
        show();
    }
    Task<NetResult<>> fill(Deadline deadline) override {
        const auto pipe = in_;
        for (;;) {
            if (closed_) co_return std::unexpected(NetError::closed);
            if (pipe->shown == 0) show();
            if (pipe->shown != 0) co_return NetResult<>{};
            if (pipe->error) co_return std::unexpected(*pipe->error);
            if (pipe->ended) co_return std::unexpected(NetError::end_of_stream);
            const auto why = co_await pipe->readable.wait(pipe->loop, deadline);
            if (why != base::Wake::event) co_return std::unexpected(base::to_net_error(why));
        }
    }
    Task<NetResult<>> write(std::span<const std::byte> bytes, Deadline deadline) override {
        const auto pipe = out_;
        while (!bytes.empty()) {
            if (closed_ || shut_) co_return std::unexpected(NetError::closed);
            if (pipe->error) co_return std::unexpected(*pipe->error);
            const std::size_t held = pipe->held_bytes();
            const std::size_t room =
                held < net_.options_.pipe_bytes_max ? net_.options_.pipe_bytes_max - held : 0;
            if (room == 0) {
                const auto why = co_await pipe->writable.wait(pipe->loop, deadline);
                if (why != base::Wake::event) co_return std::unexpected(base::to_net_error(why));
                continue;
            }
            const std::size_t now = std::min(room, bytes.size());
            SimPipe::Piece piece{{bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(now)},
                                 pipe->loop.now() + net_.options_.latency};
            pipe->in_flight.push_back(std::move(piece));
            if (!pipe->arrival.armed())
                pipe->loop.arm(pipe->arrival, pipe->in_flight.front().arrives);
            bytes = bytes.subspan(now);
        }
        co_return NetResult<>{};
    }
    Task<NetResult<>> write(base::SlabChain slabs, Deadline deadline) override {
        for (const base::SlabView& view : slabs.views()) {
            const auto written = co_await write(view.bytes(), deadline);
            if (!written) co_return std::unexpected(written.error());
        }
        co_return NetResult<>{};
    }
    Task<NetResult<>> drain(Deadline) override {
        if (out_->error) co_return std::unexpected(*out_->error);
        co_return NetResult<>{};
    }
    Task<NetResult<>> shutdown_write(Deadline) override {
        end_output();
        co_return NetResult<>{};
    }
    void close() noexcept override {
        if (closed_) return;
        closed_ = true;
        end_output();
        in_->fail(NetError::closed); // what the peer still sends finds nobody
    }
    void abort() noexcept override {
        if (closed_) return;
        closed_ = true;
        in_->fail(NetError::reset);
        out_->fail(NetError::reset);
    }
    const base::StreamInfo& info() const noexcept override { return info_; }

private:
    void end_output() noexcept {
        if (shut_) return;
        shut_ = true;
        out_->end_at = out_->loop.now() + net_.options_.latency;
        if (!out_->in_flight.empty())
            out_->end_at = std::max(out_->end_at, out_->in_flight.back().arrives);
        if (!out_->arrival.armed()) out_->loop.arm(out_->arrival, out_->end_at);
    }
    /// Lets the reader see more of what has arrived: all of it, or a piece of random size.
    void show() {
        const std::size_t hidden = in_->arrived.size() - in_->front - in_->shown;
        if (hidden == 0 || in_->shown != 0) return;
        std::size_t more = hidden;
        if (net_.options_.fragment) {
            const std::uint64_t draw = net_.random_();
            if (draw % 4 == 0) more = 1 + (draw >> 8) % hidden;
            if (draw % 16 == 1) more = 1;
        }
        in_->shown += more;
    }

    SimNet& net_;
    std::shared_ptr<SimPipe> in_, out_;
    base::StreamInfo info_;
    bool closed_ = false;
    bool shut_ = false;
};

class SimListener final : public base::Listener {
public:
    SimListener(SimNet& net, base::SocketAddress local) : net_(&net), local_(local) {}
    ~SimListener() override { close(); }
    Task<NetResult<base::StreamPtr>> accept(Deadline deadline) override {
        for (;;) {
            if (!waiting_.empty()) {
                auto stream = std::move(waiting_.front());
                waiting_.pop_front();
                co_return NetResult<base::StreamPtr>{std::move(stream)};
            }
            if (net_ == nullptr) co_return std::unexpected(NetError::closed);
            const auto why = co_await arrived_.wait(net_->loop_, deadline);
            if (why != base::Wake::event) co_return std::unexpected(base::to_net_error(why));
        }
    }
    void close() noexcept override {
        if (net_ == nullptr) return;
        net_->listeners_.erase(local_);
        net_ = nullptr;
        waiting_.clear();
        arrived_.wake_all();
    }
    base::SocketAddress local() const noexcept override { return local_; }
    void deliver(base::StreamPtr stream) {
        waiting_.push_back(std::move(stream));
        arrived_.wake_one();
    }

private:
    SimNet* net_;
    base::SocketAddress local_;
    std::deque<base::StreamPtr> waiting_;
    base::WaitQueue arrived_{"sim accept"};
};

SimNet::SimNet(base::Loop& loop, SimNetOptions options)
    : loop_(loop), options_(options), random_(options.seed) {}
SimNet::~SimNet() {
    while (!listeners_.empty())
        listeners_.begin()->second->close();
}

NetResult<std::unique_ptr<base::Listener>> SimNet::listen(const base::SocketAddress& local,
                                                          const base::ListenOptions&) {
    base::SocketAddress bound = local;
    if (bound.port == 0) bound.port = next_port_++;
    if (listeners_.contains(bound)) return std::unexpected(NetError::address_in_use);
    auto listener = std::make_unique<SimListener>(*this, bound);
    listeners_[bound] = listener.get();
    return listener;
}

Task<NetResult<base::StreamPtr>> SimNet::connect(base::SocketAddress remote,
                                                 std::optional<base::IpAddress> source,
                                                 Deadline deadline) {
    if (const auto failing = failing_.find(remote); failing != failing_.end()) {
        const NetError error = failing->second;
        if (error == NetError::timed_out) {
            const auto why = co_await base::sleep_until(loop_, deadline);
            co_return std::unexpected(base::to_net_error(why));
        }
        const auto why = co_await base::sleep_for(loop_, options_.latency * 2, deadline.cancel);
        if (why == base::Wake::cancelled) co_return std::unexpected(NetError::cancelled);
        co_return std::unexpected(error);
    }
    const auto why = co_await base::sleep_for(loop_, options_.latency * 2, deadline.cancel);
    if (why == base::Wake::cancelled) co_return std::unexpected(NetError::cancelled);
    const auto found = listeners_.find(remote);
    if (found == listeners_.end()) co_return std::unexpected(NetError::refused);
    const base::IpAddress from = source.value_or(
        remote.ip.is_v6() ? *base::IpAddress::parse("::1") : base::IpAddress::v4({127, 0, 0, 1}));
    const base::SocketAddress local{from, next_port_++};
    Pair pair = make_pair(local, remote);
    found->second->deliver(std::move(pair.server));
    co_return NetResult<base::StreamPtr>{std::move(pair.client)};
}

SimNet::Pair SimNet::make_pair(const base::SocketAddress& client,
                               const base::SocketAddress& server) {
    ++connections_made_;
    auto up = std::make_shared<SimPipe>(loop_);
    auto down = std::make_shared<SimPipe>(loop_);
    std::erase_if(pipes_, [](const auto& pipe) { return pipe.expired(); });
    pipes_.push_back(up);
    pipes_.push_back(down);
    base::StreamInfo at_client{.local = client, .peer = server, .client = server};
    base::StreamInfo at_server{.local = server, .peer = client, .client = client};
    return {std::make_unique<SimStream>(*this, down, up, std::move(at_client)),
            std::make_unique<SimStream>(*this, up, down, std::move(at_server))};
}

void SimNet::reset_all() {
    for (const auto& weak : pipes_) {
        if (const auto pipe = weak.lock()) pipe->fail(NetError::reset);
    }
}

bool run_until(base::Loop& loop, base::ManualClock& clock, const std::function<bool()>& done,
               base::Duration limit) {
    const base::TimePoint end = clock.now() + limit;
    for (;;) {
        const bool more = loop.turn();
        if (done()) return true;
        if (more) continue;
        const base::TimePoint next = loop.next_due();
        if (next == base::TimePoint::max() || next > end) return false;
        clock.advance_to(std::max(next, clock.now()));
    }
}

} // namespace tests
