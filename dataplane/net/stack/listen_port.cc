#include "dataplane/net/stack/listen_port.h"

#include "dataplane/net/proxy_greeting.h"
#include "dataplane/net/stack/engine.h"
#include "dataplane/net/stack/tcp_stream.h"

#include <algorithm>

namespace dataplane::net::stack {
ListenPort::ListenPort(Engine& engine, const base::SocketAddress& local,
                       const base::ListenOptions& options) noexcept
    : engine_(engine), local_(local),
      backlog_(static_cast<std::size_t>(std::max(options.backlog, 1))),
      maximum_(options.connections_max), proxy_protocol_(options.proxy_protocol),
      any_address_(is_unspecified(local.ip)) {}

ListenPort::~ListenPort() {
    CHECK(!open_ && !first_ready_);
}

void ListenPort::established(Tcb& tcb) noexcept {
    ++connection_count_;
    if (!open_ || connection_count_ > maximum_ || queue_full()) {
        if (open_ && connection_count_ > maximum_) {
            ++engine_.counters.refused_at_max;
        } else if (open_) {
            ++engine_.counters.accept_overflow;
        }
        return engine_.abort(tcb);
    }
    ++engine_.counters.accepted;
    tcb.phase = Tcb::Phase::queued;
    const base::Ref<Tcb> held{&tcb};
    if (proxy_protocol_) {
        engine_.loop().spawn(greet_proxy(base::Ref<ListenPort>{this}, held), "PROXY header",
                             base::Room::net);
    } else {
        enqueue(held);
    }
}

void ListenPort::enqueue(base::Ref<Tcb> tcb) noexcept {
    Tcb* const fresh = tcb.get();
    if (last_ready_ == nullptr) {
        first_ready_ = std::move(tcb);
    } else {
        last_ready_->next = std::move(tcb);
    }
    last_ready_ = fresh;
    ++queued_count_;
    accepted_.wake_one();
}

base::Task<base::NetResult<base::StreamPtr>> ListenPort::accept(base::Ref<ListenPort> self,
                                                                base::Deadline deadline) {
    while (!self->first_ready_) {
        if (!self->open_) co_return std::unexpected(base::NetError::closed);
        const base::Wake reason = co_await self->accepted_.wait(self->engine_.loop(), deadline);
        if (reason != base::Wake::event) co_return std::unexpected(base::to_net_error(reason));
    }
    base::Ref<Tcb> ready = std::move(self->first_ready_);
    self->first_ready_ = std::move(ready->next);
    if (!self->first_ready_) self->last_ready_ = nullptr;
    --self->queued_count_;
    ready->phase = Tcb::Phase::open;
    base::StreamPtr stream{new TcpStream{std::move(ready)}};
    co_return stream;
}

void ListenPort::close() noexcept {
    if (!open_) return;
    const base::Ref<ListenPort> hold{this};
    open_ = false;
    engine_.unlisten(*this);
    while (first_ready_) {
        const base::Ref<Tcb> untaken = std::move(first_ready_);
        first_ready_ = std::move(untaken->next);
        engine_.abort(*untaken);
    }
    last_ready_ = nullptr;
    queued_count_ = 0;
    accepted_.wake_all();
}

base::Task<void> ListenPort::greet_proxy(base::Ref<ListenPort> self, base::Ref<Tcb> tcb) {
    // A handle resets the connection however this frame ends, unless it is handed on.
    struct Guard {
        Tcb& tcb;
        bool handed_on = false;
        ~Guard() {
            if (!handed_on && tcb.phase == Tcb::Phase::open) tcb.engine.abort(tcb);
        }
    } guard{*tcb};
    Engine& engine = self->engine_;
    tcb->phase = Tcb::Phase::open; // for reading, until it is handed on
    const auto deadline = base::Deadline::in(engine.loop(), engine.options().proxy_limit);
    TcpStreamView source{tcb};
    const auto told = co_await read_proxy_greeting(source, deadline);
    if (!told) {
        ++engine.counters.proxy_refused;
        co_return;
    }
    if (!self->open_) co_return;
    if (self->queue_full()) {
        ++engine.counters.accept_overflow;
        co_return;
    }
    if (*told) tcb->stream_info().client = **told;
    guard.handed_on = true;
    tcb->phase = Tcb::Phase::queued;
    self->enqueue(tcb);
}

} // namespace dataplane::net::stack
