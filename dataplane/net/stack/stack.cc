#include "dataplane/net/stack/stack.h"

#include "dataplane/net/stack/engine.h"
#include "dataplane/net/stack/tcp_stream.h"

#include <utility>

namespace dataplane::net::stack {
namespace {

base::Task<base::NetResult<base::StreamPtr>> connect_tcb(Engine& engine, base::SocketAddress remote,
                                                         std::optional<base::IpAddress> source,
                                                         base::Deadline deadline) {
    const auto opened = engine.open(remote, source);
    if (!opened) {
        ++engine.counters.connect_errors;
        co_return std::unexpected(opened.error());
    }
    base::Ref<Tcb> tcb = *opened;
    // However this frame ends, an attempt that did not come through leaves nothing behind.
    struct Attempt {
        Tcb& tcb;
        ~Attempt() {
            if (tcb.phase != Tcb::Phase::connecting) return;
            ++tcb.engine.counters.connect_errors;
            tcb.engine.abort(tcb);
        }
    } const attempt{*tcb};
    while (!tcb->established) {
        if (tcb->failed) co_return std::unexpected(tcb->failure);
        if (!tcb->attached) co_return std::unexpected(base::NetError::closed);
        const base::Wake reason =
            co_await tcb->writable.wait(engine.loop(), "tcp connect", deadline);
        if (reason != base::Wake::event) co_return std::unexpected(base::to_net_error(reason));
    }
    tcb->phase = Tcb::Phase::open;
    ++engine.counters.connected;
    base::StreamPtr stream{new TcpStream{tcb}};
    co_return stream;
}

} // namespace

Stack::Stack(base::Loop& loop, Port& port, ip::LayerOptions ip, StackOptions options)
    : engine_(std::make_unique<Engine>(loop, port, std::move(ip), options)) {}

Stack::~Stack() = default;

std::size_t Stack::poll() {
    return engine_->poll();
}

base::TimePoint Stack::next_due() const noexcept {
    return engine_->next_due();
}

base::NetResult<std::unique_ptr<base::Listener>> Stack::listen(const base::SocketAddress& local,
                                                               const base::ListenOptions& options) {
    auto port = engine_->listen(local, options);
    if (!port) return std::unexpected(port.error());
    return std::make_unique<TcpListener>(std::move(*port));
}

base::Task<base::NetResult<base::StreamPtr>> Stack::connect(base::SocketAddress remote,
                                                            std::optional<base::IpAddress> source,
                                                            base::Deadline deadline) {
    return connect_tcb(*engine_, remote, source, deadline);
}

StackStatistics Stack::statistics() const noexcept {
    return engine_->statistics();
}

std::size_t Stack::list(std::span<ConnectionView> views, std::size_t& cursor) const {
    return engine_->list(views, cursor);
}

std::size_t Stack::connection_count() const noexcept {
    return engine_->live_count();
}

void Stack::on_learned(ip::Layer::OnLearned handler) {
    engine_->ip().on_learned(std::move(handler));
}

void Stack::learn(const base::IpAddress& ip, const MacAddress& mac) {
    engine_->learn(ip, mac);
}

} // namespace dataplane::net::stack
