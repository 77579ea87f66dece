#include "dataplane/net/stack/tcp_stream.h"

#include "dataplane/net/stack/engine.h"

#include <optional>

namespace dataplane::net::stack {
namespace {

using base::Deadline;
using base::NetError;
using base::NetResult;
using base::Ref;
using base::Task;
using base::Wake;

/// Why nothing more can be staged; nullopt while it can.
std::optional<NetError> write_error(const Tcb& tcb) noexcept {
    if (tcb.phase != Tcb::Phase::open || tcb.write_shut) return NetError::closed;
    if (tcb.failed) return tcb.failure;
    if (!tcb.attached) return NetError::closed;
    return std::nullopt;
}

// Each of these holds its connection by a reference of its own, because the Stream may be destroyed while
// it waits. After each wait everything is looked at anew.

Task<NetResult<>> fill_tcb(Ref<Tcb> tcb, Deadline deadline) {
    for (;;) {
        if (tcb->phase != Tcb::Phase::open) co_return std::unexpected(NetError::closed);
        if (!tcb->connection.unread().empty()) co_return NetResult<>{};
        if (tcb->connection.at_end()) co_return std::unexpected(NetError::end_of_stream);
        if (tcb->failed) co_return std::unexpected(tcb->failure);
        const Wake reason = co_await tcb->readable.wait(tcb->engine.loop(), "tcp read", deadline);
        if (reason != Wake::event) co_return std::unexpected(base::to_net_error(reason));
    }
}

Task<NetResult<>> write_bytes(Ref<Tcb> tcb, std::span<const std::byte> bytes, Deadline deadline) {
    for (;;) {
        if (const auto error = write_error(*tcb)) co_return std::unexpected(*error);
        const std::size_t taken = tcb->connection.write(bytes);
        if (taken > 0) tcb->engine.mark(*tcb);
        bytes = bytes.subspan(taken);
        if (bytes.empty()) co_return NetResult<>{};
        if (tcb->connection.send_room() > 0) tcb->engine.wait_for_send_slab(*tcb);
        const Wake reason = co_await tcb->writable.wait(tcb->engine.loop(), "tcp write", deadline);
        if (reason != Wake::event) co_return std::unexpected(base::to_net_error(reason));
    }
}

Task<NetResult<>> write_slabs(Ref<Tcb> tcb, base::SlabChain slabs, Deadline deadline) {
    std::size_t staged = 0;
    for (;;) {
        if (const auto error = write_error(*tcb)) co_return std::unexpected(*error);
        for (; staged < slabs.views().size() && tcb->connection.send_room() > 0; ++staged) {
            if (slabs.views()[staged].length == 0) continue;
            tcb->connection.write(slabs.views()[staged]);
            tcb->engine.mark(*tcb);
        }
        if (staged == slabs.views().size() && tcb->connection.send_room() > 0) {
            co_return NetResult<>{};
        }
        const Wake reason = co_await tcb->writable.wait(tcb->engine.loop(), "tcp write", deadline);
        if (reason != Wake::event) co_return std::unexpected(base::to_net_error(reason));
    }
}

Task<NetResult<>> drain_tcb(Ref<Tcb> tcb, Deadline deadline) {
    for (;;) {
        if (tcb->phase != Tcb::Phase::open) co_return std::unexpected(NetError::closed);
        if (tcb->failed) co_return std::unexpected(tcb->failure);
        if (tcb->connection.unsent_bytes() == 0) co_return NetResult<>{};
        const Wake reason = co_await tcb->writable.wait(tcb->engine.loop(), "tcp write", deadline);
        if (reason != Wake::event) co_return std::unexpected(base::to_net_error(reason));
    }
}

Task<NetResult<>> shut_tcb(Ref<Tcb> tcb, Deadline deadline) {
    if (tcb->phase != Tcb::Phase::open) co_return std::unexpected(NetError::closed);
    if (tcb->failed) co_return std::unexpected(tcb->failure);
    // At once, and not after the wait: the FIN then rides on the last bytes.
    if (!tcb->write_shut && tcb->attached) {
        tcb->write_shut = true;
        tcb->connection.shutdown_write(tcb->engine.loop().now());
        tcb->engine.mark(*tcb);
    }
    const auto drained = co_await drain_tcb(tcb, deadline);
    co_return drained;
}

} // namespace

std::span<const std::byte> TcpStreamView::unread() const noexcept {
    if (tcb_->phase != Tcb::Phase::open) return {};
    return tcb_->connection.unread();
}

void TcpStreamView::consume(std::size_t bytes) noexcept {
    if (bytes == 0) return;
    CHECK(bytes <= unread().size());
    tcb_->connection.consume(bytes, tcb_->engine.loop().now());
    tcb_->engine.mark_if_wanted(*tcb_);
}

Task<NetResult<>> TcpStreamView::fill(Deadline deadline) {
    return fill_tcb(tcb_, deadline);
}

TcpStream::~TcpStream() {
    if (tcb_->phase == Tcb::Phase::open) abort();
}

Task<NetResult<>> TcpStream::write(std::span<const std::byte> bytes, Deadline deadline) {
    return write_bytes(tcb_, bytes, deadline);
}

Task<NetResult<>> TcpStream::write(base::SlabChain slabs, Deadline deadline) {
    return write_slabs(tcb_, std::move(slabs), deadline);
}

Task<NetResult<>> TcpStream::drain(Deadline deadline) {
    return drain_tcb(tcb_, deadline);
}

Task<NetResult<>> TcpStream::shutdown_write(Deadline deadline) {
    return shut_tcb(tcb_, deadline);
}

void TcpStream::close() noexcept {
    if (tcb_->phase == Tcb::Phase::open) tcb_->engine.close(*tcb_);
}

void TcpStream::abort() noexcept {
    if (tcb_->phase != Tcb::Phase::orphan) tcb_->engine.abort(*tcb_);
}

const base::StreamInfo& TcpStream::info() const noexcept {
    return tcb_->stream_info();
}

} // namespace dataplane::net::stack
