#include "tls_offload/connection.h"

#include "tls_offload/peer.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace tls_offload {

using base::Deadline;
using base::NetError;
using base::NetResult;
using base::Task;

// --- The BIO, which ties the SSL to the lower stream

std::size_t Connection::read_lower(std::span<std::byte> into) noexcept {
    const std::span<const std::byte> from = lower_->unread();
    const std::size_t bytes = std::min(from.size(), into.size());
    if (bytes == 0) return 0;
    std::memcpy(into.data(), from.data(), bytes);
    lower_->consume(bytes);
    return bytes;
}

std::size_t Connection::stage_sealed(std::span<const std::byte> record) noexcept {
    std::size_t moved = 0;
    while (moved < record.size()) {
        const bool extend = sealed_count_ > (front_in_flight_ ? 1U : 0U) &&
                            sealed(sealed_count_ - 1).bytes < block_bytes;
        if (!extend) {
            if (sealed_count_ == send_blocks_max) break;
            sealed(sealed_count_) = {library_->blocks.take(), 0};
            ++sealed_count_;
        }
        Sealed& last = sealed(sealed_count_ - 1);
        const std::size_t bytes = std::min(block_bytes - last.bytes, record.size() - moved);
        std::memcpy(last.block->data() + last.bytes, record.data() + moved, bytes);
        last.bytes += bytes;
        moved += bytes;
    }
    return moved;
}

namespace {

Connection& connection_of(BIO* bio) noexcept {
    return *static_cast<Connection*>(BIO_get_data(bio));
}

int bio_read(BIO* bio, char* into, std::size_t capacity, std::size_t* moved) noexcept {
    BIO_clear_retry_flags(bio);
    *moved = connection_of(bio).read_lower(std::as_writable_bytes(std::span{into, capacity}));
    if (*moved != 0) return 1;
    BIO_set_retry_read(bio);
    return 0;
}

int bio_write(BIO* bio, const char* from, std::size_t bytes, std::size_t* moved) noexcept {
    BIO_clear_retry_flags(bio);
    *moved = connection_of(bio).stage_sealed(std::as_bytes(std::span{from, bytes}));
    if (*moved != 0) return 1;
    BIO_set_retry_write(bio);
    return 0;
}

long bio_ctrl(BIO*, int command, long, void*) noexcept {
    // Flushing is flush()'s business; of everything else OpenSSL may ask, "no" is the answer.
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}

} // namespace

BioMethodHandle make_stream_bio_method() {
    static const int type = BIO_get_new_index() | BIO_TYPE_SOURCE_SINK; // a process has only 127
    BioMethodHandle method{BIO_meth_new(type, "stream")};
    if (method == nullptr) return nullptr;
    BIO_meth_set_read_ex(method.get(), bio_read);
    BIO_meth_set_write_ex(method.get(), bio_write);
    BIO_meth_set_ctrl(method.get(), bio_ctrl);
    return method;
}

// --- Reading

/// Decrypts what has come, as far as the block takes it.
Step Connection::step_read() {
    const base::InRoom in{base::Room::tls};
    SSL* ssl = ssl_.get();
    while (read_end_ < record_bytes_max &&
           (!lower_->unread().empty() || SSL_has_pending(ssl) == 1)) {
        if (read_block_ == nullptr) read_block_ = library_->blocks.take();
        ERR_clear_error();
        std::size_t bytes = 0;
        const int result =
            SSL_read_ex(ssl, read_block_->data() + read_end_, record_bytes_max - read_end_, &bytes);
        if (result == 1) {
            read_end_ += bytes;
            continue;
        }
        Step step = Step::failed;
        switch (SSL_get_error(ssl, result)) {
        case SSL_ERROR_WANT_READ:
            step = Step::want_read;
            break; // all is read, up to a part of a record
        case SSL_ERROR_WANT_WRITE:
            step = Step::want_room;
            break;
        case SSL_ERROR_ZERO_RETURN:
            read_ended_ = true;
            step = Step::done;
            break;
        default:
            fail_tls();
            break;
        }
        start_flush(); // an alert, or the answer to a key update
        if (read_end_ != 0) return Step::done;
        release_read_block();
        return step;
    }
    return read_end_ != 0 ? Step::done : Step::want_read;
}

Task<NetResult<>> Connection::fill(base::Ref<Connection> self, Deadline deadline) {
    for (;;) {
        if (self->closed_) co_return std::unexpected(NetError::closed);
        if (!self->unread().empty()) co_return NetResult<>{};
        if (self->read_ended_) co_return std::unexpected(NetError::end_of_stream);
        if (const auto error = self->error_) co_return std::unexpected(*error);

        const Step step = self->step_read();
        if (step == Step::want_room) {
            const base::Wake why = co_await self->room_.wait(self->loop(), deadline);
            if (why != base::Wake::event) co_return std::unexpected(base::to_net_error(why));
        }
        if (step != Step::want_read) continue;
        const auto filled = co_await self->lower_->fill(deadline);
        if (filled) continue;
        const NetError why = filled.error();
        if (why == NetError::timed_out || why == NetError::cancelled)
            co_return std::unexpected(why);
        if (why == NetError::end_of_stream) {
            self->read_ended_ = true;
            ++self->library_->counters.truncated;
        } else {
            self->fail(why);
        }
    }
}

// --- Writing

/// Copies what fits the open record; returns how much that was.
std::size_t Connection::stage(std::span<const std::byte> bytes) {
    const std::size_t moved = std::min(bytes.size(), record_bytes_max - staged_bytes_);
    if (moved == 0) return 0;
    if (staged_ == nullptr) staged_ = library_->blocks.take();
    std::memcpy(staged_->data() + staged_bytes_, bytes.data(), moved);
    staged_bytes_ += moved;
    return moved;
}

/// Makes the staged bytes a record, when there is room for one; otherwise flush() does it later.
void Connection::seal() noexcept {
    seal_due_ = true;
    if (staged_bytes_ == 0 || error_) {
        seal_due_ = false;
        return;
    }
    if (!has_room()) return;
    const base::InRoom in{base::Room::tls};
    ERR_clear_error();
    std::size_t written = 0;
    // Behind a full record comes another, nearly always: OpenSSL may keep its buffer for that one. The last
    // record of what is written, which is a short one, has it released.
    const bool full = staged_bytes_ == record_bytes_max;
    if (full) SSL_clear_mode(ssl_.get(), SSL_MODE_RELEASE_BUFFERS);
    const int result = SSL_write_ex(ssl_.get(), staged_->data(), staged_bytes_, &written);
    if (full) SSL_set_mode(ssl_.get(), SSL_MODE_RELEASE_BUFFERS);
    if (result == 1) {
        CHECK(written == staged_bytes_); // no SSL_MODE_ENABLE_PARTIAL_WRITE
        seal_due_ = false;
        staged_bytes_ = 0;
        library_->blocks.give_back(std::move(staged_));
    } else if (SSL_get_error(ssl_.get(), result) != SSL_ERROR_WANT_WRITE) {
        fail_tls();
    } // otherwise the record is half out: flush() repeats the call, with the same bytes in front
    start_flush();
}

void Connection::start_flush() {
    if (flushing_ || (sealed_count_ == 0 && !drain_due_ && !shutdown_due_)) return;
    flushing_ = true;
    loop().spawn(flush(base::Ref<Connection>{this}), "tls: flush", base::Room::tls);
}

Task<void> Connection::flush(base::Ref<Connection> self) {
    const Deadline forever = Deadline::never();
    while (!self->lower_dead_) {
        NetResult<> result;
        if (self->sealed_count_ != 0) {
            self->front_in_flight_ = true;
            Sealed& front = self->sealed(0);
            const std::span<const std::byte> bytes = std::span{*front.block}.first(front.bytes);
            result = co_await self->lower_->write(bytes, forever);
            self->front_in_flight_ = false;
            self->library_->blocks.give_back(std::move(front.block));
            self->sealed_first_ = (self->sealed_first_ + 1) % send_blocks_max;
            --self->sealed_count_;
            if (result && self->seal_due_) self->seal();
            self->room_.wake_all();
        } else if (self->drain_due_) {
            self->drain_due_ = false;
            result = co_await self->lower_->drain(forever);
        } else if (self->shutdown_due_) {
            self->shutdown_due_ = false;
            result = co_await self->lower_->shutdown_write(forever);
        } else if (self->closed_ && self->may_end_output()) {
            self->end_output();
        } else {
            break;
        }
        if (!result) self->fail(result.error());
    }
    self->flushing_ = false;
    self->flushed_.wake_all();
    self->room_.wake_all();
    if (self->closed_ && !self->aborted_) {
        self->close_timer_.cancel();
        self->lower_->close();
    }
}

Task<NetResult<>> Connection::write(base::Ref<Connection> self, std::span<const std::byte> bytes,
                                    Deadline deadline) {
    for (;;) {
        if (const auto error = self->write_error()) co_return std::unexpected(*error);
        bytes = bytes.subspan(self->stage(bytes));
        if (self->staged_bytes_ == record_bytes_max) self->seal();
        if (bytes.empty()) break;
        if (self->staged_bytes_ < record_bytes_max || self->write_error()) continue;
        const base::Wake why = co_await self->room_.wait(self->loop(), deadline);
        if (why != base::Wake::event) co_return std::unexpected(base::to_net_error(why));
    }
    if (self->staged_bytes_ != 0) self->loop().at_turn_end(*self);
    co_return NetResult<>{};
}

Task<NetResult<>> Connection::write(base::Ref<Connection> self, base::SlabChain slabs,
                                    Deadline deadline) {
    for (const base::SlabView& view : slabs.views()) {
        const auto written = co_await write(self, view.bytes(), deadline);
        if (!written) co_return std::unexpected(written.error());
    }
    co_return NetResult<>{};
}

Task<NetResult<>> Connection::wait_flushed(base::Ref<Connection> self, Deadline deadline) {
    self->seal();
    self->start_flush();
    while (self->flushing_) {
        const base::Wake why = co_await self->flushed_.wait(self->loop(), deadline);
        if (why != base::Wake::event) co_return std::unexpected(base::to_net_error(why));
    }
    if (const auto error = self->error_) co_return std::unexpected(*error);
    if (self->closed_) co_return std::unexpected(NetError::closed);
    co_return NetResult<>{};
}

Task<NetResult<>> Connection::drain(base::Ref<Connection> self, Deadline deadline) {
    if (const auto error = self->write_error()) co_return std::unexpected(*error);
    self->drain_due_ = true;
    auto flushed = co_await wait_flushed(self, deadline);
    co_return flushed;
}

Task<NetResult<>> Connection::shutdown_write(base::Ref<Connection> self, Deadline deadline) {
    if (const auto error = self->write_error()) co_return std::unexpected(*error);
    // Everything staged must be sealed before the close_notify, which nothing may follow.
    auto sealed = co_await wait_flushed(self, deadline);
    if (!sealed) co_return sealed;
    if (self->may_end_output()) self->end_output();
    self->shutdown_due_ = true;
    auto flushed = co_await wait_flushed(self, deadline);
    co_return flushed;
}

/// Says close_notify, behind everything that was staged.
void Connection::end_output() noexcept {
    const base::InRoom in{base::Room::tls};
    write_ended_ = true;
    ERR_clear_error();
    static_cast<void>(SSL_shutdown(ssl_.get()));
    ERR_clear_error();
}

// --- Ends

/// The lower stream is dead, and so are we.
void Connection::fail(NetError error) noexcept {
    lower_dead_ = true;
    if (!error_) error_ = error;
    room_.wake_all();
    flushed_.wake_all();
}

/// TLS itself broke, after the handshake. OpenSSL may have left an alert, which flush() still
/// sends.
void Connection::fail_tls() {
    state_.failure = diagnose(*ssl_);
    ERR_clear_error();
    ++library_->counters.broken;
    error_ = NetError::tls;
    room_.wake_all();
}

void Connection::close() noexcept {
    if (closed_) return;
    closed_ = true;
    if (established_) seal();
    if (may_end_output()) end_output();
    start_flush();
    room_.wake_all();
    if (flushing_) { // it goes on, and closes the lower stream when all has left
        loop().arm(close_timer_, loop().now() + close_flush_max);
    } else {
        lower_->close();
    }
}

void Connection::abort() noexcept {
    closed_ = aborted_ = true;
    close_timer_.cancel();
    lower_->abort();
    give_up_signing();
    fail(NetError::closed);
}

} // namespace tls_offload
