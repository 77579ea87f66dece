// client_content.cc: a transaction's content: BDATs, or dot-stuffed after DATA.
#include "dataplane/smtp/client_session.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

namespace dataplane::smtp {

using base::SlabChain;
using base::Task;

/// The content in BDATs of one piece each; every one is answered (RFC 3030 §2).
Task<void> ClientSession::send_chunks(SlabChain piece, queue::ContentReader& content) {
    for (;;) {
        const bool last = content.bytes_left() == 0;
        const Stage stage = last ? Stage::last_dot : Stage::body;
        out_.assign("BDAT ");
        out_ += std::to_string(piece.size_bytes());
        out_ += last ? " LAST\r\n" : "\r\n";
        bool alive = co_await send(out_, Stage::body, options_.timeouts.data_send, scratch_);
        if (alive) alive = co_await send_slabs(std::move(piece), Stage::body, scratch_);
        if (!alive) {
            co_await explain_broken_write(scratch_);
            settle_open(scratch_);
            co_return;
        }
        const auto limit = last ? options_.timeouts.data_done : options_.timeouts.data_send;
        alive = co_await read_reply(stage, limit, scratch_);
        if (!alive || !scratch_.positive() || last) {
            if (!scratch_.positive()) distrust(scratch_);
            needs_reset_ = scratch_.refused();
            settle_open(scratch_);
            co_return;
        }
        auto next = co_await content.next(within(options_.timeouts.data_send));
        if (!next) {
            needs_reset_ = true; // without LAST the peer has accepted nothing
            fail_unreadable(scratch_, Stage::body, next.error());
            settle_open(scratch_);
            co_return;
        }
        piece = std::move(*next);
    }
}

/// The content after a 354, dot-stuffed, and the answer to its end.
Task<void> ClientSession::send_dotted(SlabChain piece, queue::ContentReader& content) {
    while (!piece.empty()) {
        const bool sent = co_await send_stuffed(std::move(piece));
        if (!sent) {
            co_await explain_broken_write(scratch_);
            settle_open(scratch_);
            co_return;
        }
        if (content.bytes_left() == 0) break;
        auto next = co_await content.next(within(options_.timeouts.data_send));
        if (!next) {
            // The peer must not take what it has so far for the message: no dot, and no orderly
            // end.
            usable_ = false;
            stream_->abort();
            fail_unreadable(scratch_, Stage::body, next.error());
            settle_open(scratch_);
            co_return;
        }
        piece = std::move(*next);
    }
    // The CRLF before the dot is the content's own when it ends in one (RFC 5321 §4.1.1.4).
    const std::string_view end = tail_ == 2 ? ".\r\n" : "\r\n.\r\n";
    const bool sent = co_await send(end, Stage::body, options_.timeouts.data_send, scratch_);
    if (!sent) {
        co_await explain_broken_write(scratch_);
        settle_open(scratch_);
        co_return;
    }
    static_cast<void>(co_await read_reply(Stage::last_dot, options_.timeouts.data_done, scratch_));
    if (!scratch_.positive()) distrust(scratch_);
    settle_open(scratch_);
}

/// Doubles each dot that begins a line (RFC 5321 §4.5.2) without copying: a view that ends with the
/// dot is followed by one that begins with the same dot. A bare LF counts as a line's end too: a
/// peer that takes it for one must not find a lone dot behind it.
Task<bool> ClientSession::send_stuffed(SlabChain piece) {
    SlabChain chain;
    for (const base::SlabView& view : piece.views()) {
        const std::string_view text = base::as_text(view.bytes());
        if (text.empty()) continue;
        std::uint32_t begin = 0;
        std::size_t search = 0;
        bool dot_first = at_line_start_ && text[0] == '.';
        while (begin < text.size()) {
            std::uint32_t end = static_cast<std::uint32_t>(text.size());
            std::uint32_t next = end;
            if (dot_first) {
                end = 1;
                next = 0;
                dot_first = false;
            } else if (const std::size_t found = text.find("\n.", search);
                       found != std::string_view::npos) {
                end = static_cast<std::uint32_t>(found + 2);
                next = end - 1;
                search = end;
            }
            if (chain.full()) {
                const bool sent = co_await send_slabs(std::move(chain), Stage::body, scratch_);
                if (!sent) co_return false;
                chain.clear();
            }
            chain.push({view.slab, view.offset + begin, end - begin});
            begin = next;
        }
        const char last = text.back();
        const bool after_cr = text.size() > 1 ? text[text.size() - 2] == '\r' : tail_ == 1;
        tail_ = last == '\r' ? 1 : last == '\n' && after_cr ? 2 : 0;
        at_line_start_ = last == '\n';
    }
    const bool sent = co_await send_slabs(std::move(chain), Stage::body, scratch_);
    co_return sent;
}

} // namespace dataplane::smtp
