// async_key.h: a server's RSA key for libssl, whose private operation goes through the offload engine.
//
// Scope      An EVP_PKEY with a method of its own, for SSL_CTX_use_PrivateKey(). Inside an ASYNC job (an SSL
//            with SSL_MODE_ASYNC) a signature is submitted and the job paused until it is there; outside of
//            one, and when the engine takes no more, it is made by software on the spot. The key alone has
//            the method: no engine becomes anybody's default.
// Owns       Nothing of the handshake: the request lives on the job's stack. An SSL with a paused job must
//            therefore be resumed until it wants no more ASYNC before it is freed, also when its peer is
//            gone; freed earlier it leaks the job. Under a GiveUp the first resumption ends it: the request is
//            cancelled, and what a device still makes of it is the engine's late completion.
// Threading  The engine's shard; the key is used by that shard's SSL objects only.
// Failure    Null when OpenSSL is out of memory. An operation's failure fails the handshake.
#pragma once

#include "tls_offload/engine/engine.h"

#include <memory>

struct evp_pkey_st;

namespace tls_offload::offload {

struct FreeEvpKey {
    void operator()(evp_pkey_st* key) const noexcept;
};
using EvpKeyHandle = std::unique_ptr<evp_pkey_st, FreeEvpKey>;

/// The shard's wake-up: what ASYNC_WAIT_CTX_set_callback() (SSL_set_async_callback()) was given is called
/// when a paused job may go on. It is called inside Engine::poll() and may only queue.
[[nodiscard]] EvpKeyHandle make_async_key(Engine& engine, const KeyRef& key);

/// While one lives, a job of this thread that is resumed gives its signature up, and its handshake fails.
class GiveUp {
public:
    GiveUp() noexcept;
    ~GiveUp();
    GiveUp(const GiveUp&) = delete;
    GiveUp& operator=(const GiveUp&) = delete;
};

/// Bounds this thread's ASYNC jobs, of 32 KiB each, which OpenSSL keeps once it has made them. The first call
/// decides: a second pool would hide the first one, and its jobs with it.
void bound_jobs(std::size_t jobs_max);

struct AsyncKeyCounters {
    std::uint64_t offloaded = 0; // operations that paused a job
    std::uint64_t inline_made =
        0;                      // made on the spot: no job, no room, or a padding of no signature
    std::uint64_t given_up = 0; // of those that paused a job
};
/// Of this thread's keys.
[[nodiscard]] const AsyncKeyCounters& async_key_counters() noexcept;

} // namespace tls_offload::offload
