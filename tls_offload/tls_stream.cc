#include "tls_offload/tls_stream.h"

#include "tls_offload/connection.h"

#include <utility>

namespace tls_offload {
namespace {

using base::Deadline;
using base::NetResult;
using base::Task;

/// What the caller holds.
class TlsStream final : public base::Stream {
public:
    explicit TlsStream(base::Ref<Connection> connection) noexcept
        : connection_(std::move(connection)) {}
    ~TlsStream() override {
        if (open_) connection_->abort();
    }

    std::span<const std::byte> unread() const noexcept override {
        if (!open_) return {};
        return connection_->unread();
    }
    void consume(std::size_t bytes) noexcept override { connection_->consume(bytes); }
    Task<NetResult<>> fill(Deadline deadline) override {
        return Connection::fill(connection_, deadline);
    }
    Task<NetResult<>> write(std::span<const std::byte> bytes, Deadline deadline) override {
        return Connection::write(connection_, bytes, deadline);
    }
    Task<NetResult<>> write(base::SlabChain slabs, Deadline deadline) override {
        return Connection::write(connection_, std::move(slabs), deadline);
    }
    Task<NetResult<>> drain(Deadline deadline) override {
        return Connection::drain(connection_, deadline);
    }
    Task<NetResult<>> shutdown_write(Deadline deadline) override {
        return Connection::shutdown_write(connection_, deadline);
    }
    void close() noexcept override {
        open_ = false;
        connection_->close();
    }
    void abort() noexcept override {
        open_ = false;
        connection_->abort();
    }
    const base::StreamInfo& info() const noexcept override { return connection_->info(); }
    [[nodiscard]] const TlsState& state() const noexcept { return connection_->state(); }

private:
    base::Ref<Connection> connection_;
    bool open_ = true;
};

} // namespace

base::StreamPtr make_stream(base::Ref<Connection> connection) {
    return std::make_unique<TlsStream>(std::move(connection));
}

const TlsState* tls_state(const base::Stream& stream) noexcept {
    const auto* tls = dynamic_cast<const TlsStream*>(&stream);
    return tls == nullptr ? nullptr : &tls->state();
}

std::string_view to_string(TlsFailureReason reason) noexcept {
    switch (reason) {
    case TlsFailureReason::timed_out:
        return "timed out";
    case TlsFailureReason::cancelled:
        return "cancelled";
    case TlsFailureReason::peer_closed:
        return "closed by peer";
    case TlsFailureReason::network:
        return "network failure";
    case TlsFailureReason::alert:
        return "alert from peer";
    case TlsFailureReason::certificate:
        return "certificate not accepted";
    case TlsFailureReason::protocol:
        return "protocol failure";
    case TlsFailureReason::internal:
        return "internal failure";
    }
    return "unknown TLS failure";
}

} // namespace tls_offload
