// tls_pair.h: a client and a server that have shaken hands, the client's lower stream tapped.
#pragma once

#include "tests/tls_offload/tls_fixture.h"

#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace tests {

/// Counts what reaches the lower stream, and can spoil one byte of it.
class Tap final : public base::Stream {
public:
    explicit Tap(StreamPtr inner) : inner_(std::move(inner)) {}
    std::span<const std::byte> unread() const noexcept override { return inner_->unread(); }
    void consume(std::size_t bytes) noexcept override { inner_->consume(bytes); }
    Task<NetResult<>> fill(Deadline deadline) override { return inner_->fill(deadline); }
    Task<NetResult<>> write(std::span<const std::byte> bytes, Deadline deadline) override {
        ++write_count;
        write_bytes += bytes.size();
        copy_.assign(bytes.begin(), bytes.end());
        if (spoil_next) copy_.back() ^= std::byte{1};
        spoil_next = false;
        return inner_->write(copy_, deadline);
    }
    Task<NetResult<>> write(base::SlabChain slabs, Deadline deadline) override {
        return inner_->write(std::move(slabs), deadline);
    }
    Task<NetResult<>> drain(Deadline deadline) override {
        ++drain_count;
        return inner_->drain(deadline);
    }
    Task<NetResult<>> shutdown_write(Deadline deadline) override {
        return inner_->shutdown_write(deadline);
    }
    void close() noexcept override { inner_->close(); }
    void abort() noexcept override { inner_->abort(); }
    const base::StreamInfo& info() const noexcept override { return inner_->info(); }

    std::size_t write_count = 0;
    std::size_t write_bytes = 0;
    std::size_t drain_count = 0;
    bool spoil_next = false;

private:
    StreamPtr inner_;
    std::vector<std::byte> copy_;
};

class TlsPair : public TlsFixture {
protected:
    /// A connected pair, its client's lower stream tapped.
    void connect(tls_offload::ServerContext& server, tls_offload::ClientContext& client,
                 const tls_offload::ClientOptions& options = {.server_name = "mx.example.com"}) {
        auto pair = make_pair();
        auto tapped = std::make_unique<Tap>(std::move(pair.client));
        tap = tapped.get();
        pair.client = std::move(tapped);
        auto ends = shake(std::move(pair), client, server, options);
        ASSERT_TRUE(ends.client->has_value()) << ends.client->error().text;
        ASSERT_TRUE(ends.server->has_value()) << ends.server->error().text;
        client_end = std::move(**ends.client);
        server_end = std::move(**ends.server);
    }
    void connect() {
        auto server = make_server();
        auto client = make_client();
        connect(server, client);
    }
    /// One message each way, as SMTP's greeting and EHLO, so that tickets arrive.
    void converse() {
        write(*server_end, "220 mx.example.com\r\n");
        EXPECT_EQ(read(*client_end, 20), "220 mx.example.com\r\n");
        write(*client_end, "QUIT\r\n");
        EXPECT_EQ(read(*server_end, 6), "QUIT\r\n");
    }
    void part() {
        client_end->close();
        server_end->close();
        run_until(loop, clock, [] { return false; }, 20s);
        client_end.reset();
        server_end.reset();
    }

    Tap* tap = nullptr;
    StreamPtr client_end, server_end;
};

} // namespace tests
