// context_state.h: what stands behind the public contexts, shared by reference with their streams.
// Internal to tls_offload.
#pragma once

#include "tls_offload/block_pool.h"
#include "tls_offload/openssl.h"
#include "tls_offload/session_cache.h"
#include "tls_offload/tls_context.h"

namespace tls_offload {

struct LibraryState final : base::RefCounted<LibraryState> {
    explicit LibraryState(base::Loop& owner) : loop(owner) {}
    void retire() noexcept { delete this; }

    base::Loop& loop;
    LibCtxHandle openssl;
    BioMethodHandle bio_method; // a stream's lower side; see tls_stream.cc
    BlockPool blocks;
    TlsCounters counters;
};

struct ServerState final : base::RefCounted<ServerState> {
    explicit ServerState(base::Ref<LibraryState> owner) : library(std::move(owner)) {}
    void retire() noexcept { delete this; }

    base::Ref<LibraryState> library; // before what was made from it
    SslCtxHandle context;
};

struct ClientState final : base::RefCounted<ClientState> {
    ClientState(base::Ref<LibraryState> owner, std::size_t session_keys)
        : library(std::move(owner)), sessions(session_keys) {}
    void retire() noexcept { delete this; }

    base::Ref<LibraryState> library;
    SessionCache sessions;
    SslCtxHandle opportunistic; // may, encrypt
    SslCtxHandle verified;      // verify
};

/// The methods of the BIO that ties an SSL to its stream.
[[nodiscard]] BioMethodHandle make_stream_bio_method();
/// OpenSSL's new-session callback of a client: files the session under its connection's key.
int remember_session(SSL* ssl, SSL_SESSION* session) noexcept;

} // namespace tls_offload
