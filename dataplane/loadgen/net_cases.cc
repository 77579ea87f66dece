#include "dataplane/loadgen/net_cases.h"

#include <algorithm>
#include <array>

namespace dataplane::loadgen {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t exchange_bytes = 600; // each way, as the published short-connection figures
constexpr auto wait_limit = 30s;
constexpr auto retry_gap = 10ms;
constexpr std::array<std::string_view, 4> names{"short", "request", "bulk", "idle"};

/// Tells the server which case a connection is of.
constexpr std::byte first_byte(NetCase which) {
    return static_cast<std::byte>('A' + static_cast<int>(which));
}

struct Exchange {
    std::array<std::byte, exchange_bytes> bytes{};
    explicit Exchange(NetCase which) { bytes.fill(first_byte(which)); }
};

/// Reads away `count` bytes; false when the connection ended before.
base::Task<bool> read_away(base::Loop& loop, base::Stream& stream, std::size_t count) {
    while (count > 0) {
        auto filled = co_await stream.fill(base::Deadline::in(loop, wait_limit));
        if (!filled) co_return false;
        const std::size_t got = std::min(count, stream.unread().size());
        stream.consume(got);
        count -= got;
    }
    co_return true;
}

} // namespace

std::optional<NetCase> net_case(std::string_view name) noexcept {
    const auto found = std::ranges::find(names, name);
    if (found == names.end()) return std::nullopt;
    return static_cast<NetCase>(found - names.begin());
}

std::string_view to_string(NetCase which) noexcept {
    return names[static_cast<std::size_t>(which)];
}

// --- Server

base::NetResult<base::SocketAddress> NetServer::listen(const base::SocketAddress& local) {
    auto listener = transport_.listen(local, {.connections_max = 2'000'000});
    if (!listener) return std::unexpected(listener.error());
    listeners_.push_back(std::move(*listener));
    loop_.spawn(accept_all(*listeners_.back()), "bench accept");
    return listeners_.back()->local();
}

base::Task<void> NetServer::accept_all(base::Listener& listener) {
    for (;;) {
        auto accepted = co_await listener.accept(base::Deadline::never());
        if (accepted) {
            loop_.spawn(serve(std::move(*accepted)), "bench serve");
        } else if (accepted.error() == base::NetError::closed) {
            co_return;
        } else {
            ++tally_.failed;
            static_cast<void>(co_await base::sleep_for(loop_, retry_gap));
        }
    }
}

base::Task<void> NetServer::serve(base::StreamPtr stream) {
    ++tally_.open;
    auto first = co_await stream->fill(base::Deadline::never());
    const char kind = first ? static_cast<char>(stream->unread().front()) : 'Z';
    const NetCase which =
        kind >= 'A' && kind <= 'D' ? static_cast<NetCase>(kind - 'A') : NetCase::idle;
    if (first && which == NetCase::bulk) {
        for (;;) {
            const std::size_t got = stream->unread().size();
            tally_.bytes += got;
            stream->consume(got);
            auto filled = co_await stream->fill(base::Deadline::in(loop_, wait_limit));
            if (!filled) break;
        }
    } else if (first && which != NetCase::idle) {
        const Exchange answer{which};
        for (;;) {
            auto whole = co_await read_away(loop_, *stream, exchange_bytes);
            if (!whole) break;
            tally_.bytes += exchange_bytes;
            auto written =
                co_await stream->write(answer.bytes, base::Deadline::in(loop_, wait_limit));
            if (!written) break;
            ++tally_.exchanges;
            if (which == NetCase::short_connections) break;
        }
    } else if (first) {
        for (bool open = true; open;) { // one byte said that it is there; now it only stays
            stream->consume(stream->unread().size());
            auto filled = co_await stream->fill(base::Deadline::never());
            open = filled.has_value();
        }
    }
    --tally_.open;
    stream->close();
}

// --- Client

NetClient::NetClient(base::Loop& loop, base::Transport& transport, base::SlabPool& pool,
                     NetClientOptions options)
    : loop_(loop), transport_(transport), options_(std::move(options)), bulk_bytes_(pool.take()) {
    std::fill_n(bulk_bytes_.data(), bulk_bytes_.capacity(), first_byte(NetCase::bulk));
}

void NetClient::start() {
    // Opening takes at most so many at a time; idle connections stay where they are then.
    constexpr std::size_t openers_max = 1000;
    const std::size_t tasks = options_.which == NetCase::idle
                                  ? std::min(options_.connections, openers_max)
                                  : options_.connections;
    for (std::size_t i = 0; i < tasks; ++i) {
        switch (options_.which) {
        case NetCase::short_connections:
            loop_.spawn(run_short(), "bench short");
            break;
        case NetCase::request:
            loop_.spawn(run_request(), "bench request");
            break;
        case NetCase::bulk:
            loop_.spawn(run_bulk(), "bench bulk");
            break;
        case NetCase::idle:
            loop_.spawn(run_idle(), "bench idle");
            break;
        }
    }
}

base::Task<base::StreamPtr> NetClient::open() {
    for (;;) {
        const std::size_t turn = next_++;
        const base::SocketAddress server = options_.servers[turn % options_.servers.size()];
        std::optional<base::IpAddress> source;
        if (!options_.sources.empty()) {
            source = options_.sources[turn / options_.servers.size() % options_.sources.size()];
        }
        auto stream =
            co_await transport_.connect(server, source, base::Deadline::in(loop_, wait_limit));
        if (stream) co_return std::move(*stream);
        ++tally_.failed;
        static_cast<void>(co_await base::sleep_for(loop_, retry_gap));
    }
}

base::Task<void> NetClient::run_short() {
    const Exchange question{NetCase::short_connections};
    for (;;) {
        auto stream = co_await open();
        ++tally_.open;
        auto written =
            co_await stream->write(question.bytes, base::Deadline::in(loop_, wait_limit));
        bool whole = written.has_value();
        if (whole) whole = co_await read_away(loop_, *stream, exchange_bytes);
        if (whole) { // the server closes first, as SMTP servers do after QUIT
            auto end = co_await stream->fill(base::Deadline::in(loop_, wait_limit));
            whole = !end && end.error() == base::NetError::end_of_stream;
        }
        ++(whole ? tally_.exchanges : tally_.failed);
        tally_.bytes += whole ? exchange_bytes : 0;
        --tally_.open;
        stream->close();
    }
}

base::Task<void> NetClient::run_request() {
    const Exchange question{NetCase::request};
    for (;;) {
        auto stream = co_await open();
        ++tally_.open;
        for (;;) {
            auto written =
                co_await stream->write(question.bytes, base::Deadline::in(loop_, wait_limit));
            if (!written) break;
            auto whole = co_await read_away(loop_, *stream, exchange_bytes);
            if (!whole) break;
            ++tally_.exchanges;
            tally_.bytes += exchange_bytes;
        }
        ++tally_.failed;
        --tally_.open;
    }
}

base::Task<void> NetClient::run_bulk() {
    for (;;) {
        auto stream = co_await open();
        ++tally_.open;
        for (;;) {
            base::SlabChain chain;
            for (int i = 0; i < 4; ++i)
                chain.push({bulk_bytes_, 0, bulk_bytes_.capacity()});
            auto written =
                co_await stream->write(std::move(chain), base::Deadline::in(loop_, wait_limit));
            if (!written) break;
            tally_.bytes += std::uint64_t{4} * bulk_bytes_.capacity();
        }
        ++tally_.failed;
        --tally_.open;
    }
}

base::Task<void> NetClient::run_idle() {
    constexpr std::array<std::byte, 1> hello{first_byte(NetCase::idle)};
    std::vector<base::StreamPtr> kept;
    while (!settled()) {
        ++tally_.open; // before it is open, so that the openers together do not make too many
        auto stream = co_await open();
        auto written = co_await stream->write(hello, base::Deadline::in(loop_, wait_limit));
        if (!written) ++tally_.failed;
        kept.push_back(std::move(stream));
    }
    static_cast<void>(co_await base::sleep_for(loop_, std::chrono::hours{24}));
}

} // namespace dataplane::loadgen
