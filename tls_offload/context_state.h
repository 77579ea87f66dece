// context_state.h: what stands behind the public contexts, shared by reference with their streams.
// Internal to tls_offload.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/wait.h"
#include "tls_offload/block_pool.h"
#include "tls_offload/openssl.h"
#include "tls_offload/server_set.h"
#include "tls_offload/session_cache.h"
#include "tls_offload/ticket_keys.h"
#include "tls_offload/tls_context.h"

namespace tls_offload {

struct LibraryState final : base::RefCounted<LibraryState>, private base::TurnEnd {
    explicit LibraryState(base::Loop& owner) : TurnEnd(base::Room::tls), loop(owner) {}
    ~LibraryState() override = default;
    void retire() noexcept { delete this; }

    /// Whether a handshake may take a step in this turn; otherwise it waits in next_turn and asks again.
    [[nodiscard]] bool may_step() noexcept {
        if (steps_left == 0) {
            ++counters.put_off;
            return false;
        }
        --steps_left;
        loop.at_turn_end(*this);
        return true;
    }
    void turn_end() noexcept override {
        steps_left = handshake_steps_per_turn;
        for (unsigned i = 0; i < handshake_steps_per_turn; ++i)
            next_turn.wake_one();
        if (!next_turn.empty()) loop.at_turn_end(*this);
    }

    base::Loop& loop;
    offload::Engine* engine = nullptr; // null: keys sign on the spot
    std::size_t signing = 0;           // handshakes that are paused for their signature
    std::size_t signing_max = 0;
    std::size_t connections = 0;
    unsigned steps_left = handshake_steps_per_turn;
    base::WaitQueue next_turn{"tls: next handshake step"};
    LibCtxPtr openssl;
    BioMethodHandle bio_method; // a stream's lower side; see connection.cc
    CipherHandle ticket_cipher; // fetched once: each fetch takes the library's locks
    TicketKeysPtr ticket_keys;
    BlockPool blocks;
    TlsCounters counters;
};

struct ServerState final : base::RefCounted<ServerState> {
    ServerState(base::Ref<LibraryState> owner, std::unique_ptr<ServerSet> certificates)
        : library(std::move(owner)), set(std::move(certificates)) {}
    void retire() noexcept { delete this; }

    base::Ref<LibraryState> library; // before what was made from it
    std::unique_ptr<ServerSet> set;
};

struct ClientState final : base::RefCounted<ClientState> {
    ClientState(base::Ref<LibraryState> owner, std::unique_ptr<ClientSet> contexts,
                std::size_t session_keys)
        : library(std::move(owner)), set(std::move(contexts)), sessions(session_keys) {}
    void retire() noexcept { delete this; }

    base::Ref<LibraryState> library;
    std::unique_ptr<ClientSet> set;
    SessionCache sessions;
};

/// The methods of the BIO that ties an SSL to its stream.
[[nodiscard]] BioMethodHandle make_stream_bio_method();
/// OpenSSL's new-session callback of a client: files the session under its connection's key.
int remember_session(SSL* ssl, SSL_SESSION* session) noexcept;
/// OpenSSL's ticket callback of a server: picks the key that seals or opens a ticket.
int seal_ticket(SSL* ssl, unsigned char* name, unsigned char* vector, EVP_CIPHER_CTX* cipher,
                EVP_MAC_CTX* mac, int sealing) noexcept;

} // namespace tls_offload
