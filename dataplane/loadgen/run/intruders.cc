#include "dataplane/loadgen/run/intruders.h"

#include "dataplane/base/slab.h"
#include "dataplane/base/wait.h"

#include <string>
#include <utility>

namespace dataplane::loadgen {
namespace {

constexpr std::array<std::string_view, mischief_count> names{
    "silent", "slow_writer", "slow_reader", "garbage", "abort_in_data", "endless_line"};
constexpr std::chrono::milliseconds byte_gap{500}; // of the slow writer
constexpr std::size_t garbage_bytes = 600;
constexpr std::size_t flood_bytes = 64UL
                                    << 10; // one turn of the endless line, or of unread requests

constexpr std::size_t replies_bytes_max = 64UL << 10; // to a few commands: more is no relay

/// Whether DATA has its answer, or something before it was refused. `replies` begins with a line end.
bool is_answered(std::string_view replies) noexcept {
    return replies.find("\n354") != std::string_view::npos ||
           replies.find("\n4") != std::string_view::npos ||
           replies.find("\n5") != std::string_view::npos;
}

} // namespace

std::string_view to_string(Mischief kind) noexcept {
    return names[static_cast<std::size_t>(kind)];
}

Intruders::Intruders(base::Loop& loop, base::Transport& transport, IntruderOptions options)
    : loop_(loop), transport_(transport), options_(std::move(options)), random_(options_.seed) {}

void Intruders::start() {
    if (options_.targets.empty()) return;
    for (std::size_t kind = 0; kind < mischief_count; ++kind) {
        for (std::size_t i = 0; i < options_.connections[kind]; ++i)
            loop_.spawn(come_again(static_cast<Mischief>(kind), i), "intruder");
    }
}

void Intruders::stop() noexcept {
    stopping_.cancel();
}

base::Task<void> Intruders::come_again(Mischief kind, std::size_t number) {
    IntruderTally& tally = tally_[static_cast<std::size_t>(kind)];
    const base::SocketAddress target = options_.targets[number % options_.targets.size()];
    while (!stopping_.cancelled()) {
        const base::Deadline end = base::Deadline::in(loop_, options_.life, &stopping_);
        auto connected = co_await transport_.connect(target, std::nullopt, end);
        if (connected) {
            ++tally.connections;
            const base::StreamPtr stream = std::move(*connected);
            const bool ended = co_await misbehave(*stream, kind, end);
            if (ended && !stopping_.cancelled()) ++tally.ended;
            stream->abort();
        } else if (!stopping_.cancelled()) {
            ++tally.not_let_in;
        }
        static_cast<void>(co_await base::sleep_for(loop_, options_.pause, &stopping_));
    }
}

base::Task<base::NetResult<>> Intruders::say(base::Stream& stream, std::string_view text,
                                             base::Deadline end) {
    auto written = co_await stream.write(base::as_bytes(text), end);
    co_return written;
}

base::Task<bool> Intruders::misbehave(base::Stream& stream, Mischief kind, base::Deadline end) {
    std::string text;
    base::NetResult<> last{};
    switch (kind) {
    case Mischief::silent:
        break;
    case Mischief::slow_writer:
        text = "MAIL FROM:<slow@bench.example>\r\n";
        for (std::size_t i = 0; last; i = (i + 1) % text.size()) {
            last = co_await say(stream, std::string_view{text}.substr(i, 1), end);
            if (!last) break;
            const auto woke = co_await base::sleep_for(loop_, byte_gap, &stopping_);
            if (woke == base::Wake::cancelled || loop_.now() >= end.at) co_return false;
        }
        break;
    case Mischief::slow_reader:
        while (text.size() < flood_bytes)
            text += "NOOP\r\nEHLO slow.bench.example\r\n";
        while (last) // until its buffers are full of answers that nobody reads
            last = co_await say(stream, text, end);
        co_return last.error() != base::NetError::timed_out;
    case Mischief::garbage:
        for (std::size_t i = 0; i < garbage_bytes; ++i)
            text += static_cast<char>(random_() & 0xFF);
        text += "\r\n";
        last = co_await say(stream, text, end);
        break;
    case Mischief::abort_in_data:
        text = "EHLO gone.bench.example\r\n";
        last = co_await say(stream, text, end);
        text = "MAIL FROM:<gone@bench.example>\r\nRCPT TO:<gone@bench.example>\r\nDATA\r\n";
        if (last) last = co_await say(stream, text, end);
        for (std::string replies = "\n"; last && !is_answered(replies);) {
            last = co_await stream.fill(end);
            if (!last) break;
            replies += base::as_text(stream.unread());
            stream.consume(stream.unread().size());
            if (replies.size() > replies_bytes_max) co_return false;
        }
        text = "Subject: cut off\r\n\r\nhalf a mess";
        if (last) last = co_await say(stream, text, end);
        if (last) last = co_await stream.drain(end);
        if (last) co_return false; // the caller resets
        break;
    case Mischief::endless_line:
        text.assign(flood_bytes, 'X');
        while (last) {
            last = co_await say(stream, text, end);
            if (!last) break;
            while (!stream.unread().empty())
                stream.consume(stream.unread().size());
        }
        break;
    }
    while (last) { // whatever it answers; what counts is whether it ends this
        last = co_await stream.fill(end);
        if (last) stream.consume(stream.unread().size());
    }
    co_return last.error() != base::NetError::timed_out&& last.error() != base::NetError::cancelled;
}

} // namespace dataplane::loadgen
