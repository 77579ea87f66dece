#include "tls_offload/engine/async_key.h"

#include "tls_offload/engine/key_state.h"

#include <array>
#include <cstring>
#include <openssl/async.h>
#include <openssl/evp.h>

namespace tls_offload::offload {
namespace {

/// What the method finds with its RSA object.
struct Bound {
    Engine* engine;
    KeyRef key;
};

int bound_index = -1;
thread_local AsyncKeyCounters counters;
thread_local bool giving_up = false;

void free_bound(void*, void* bound, CRYPTO_EX_DATA*, int, long, void*) {
    delete static_cast<Bound*>(bound);
}

void wake_job(SignRequest& done) noexcept {
    ASYNC_callback_fn callback = nullptr;
    void* context = nullptr;
    auto* wait = static_cast<ASYNC_WAIT_CTX*>(done.context);
    if (ASYNC_WAIT_CTX_get_callback(wait, &callback, &context) == 1 && callback != nullptr)
        static_cast<void>(callback(context));
}

int software(int bytes, const unsigned char* from, unsigned char* to, RSA* rsa, int padding) {
    ++counters.inline_made;
    return RSA_meth_get_priv_enc(RSA_PKCS1_OpenSSL())(bytes, from, to, rsa, padding);
}

/// TLS 1.2 signs with PKCS#1 padding, TLS 1.3 with PSS, which OpenSSL pads itself and hands over as a block.
int private_encrypt(int bytes, const unsigned char* from, unsigned char* to, RSA* rsa,
                    int padding) {
    ASYNC_JOB* job = ASYNC_get_current_job();
    const auto* bound = static_cast<const Bound*>(RSA_get_ex_data(rsa, bound_index));
    if (job == nullptr || bound == nullptr) return software(bytes, from, to, rsa, padding);
    const std::size_t size = bound->key->modulus_bytes();
    std::array<std::byte, block_bytes_max> block;
    auto* padded = reinterpret_cast<unsigned char*>(block.data());
    if (padding == RSA_NO_PADDING && bytes == static_cast<int>(size)) {
        std::memcpy(padded, from, size);
    } else if (padding != RSA_PKCS1_PADDING ||
               RSA_padding_add_PKCS1_type_1(padded, static_cast<int>(size), from, bytes) != 1) {
        return software(bytes, from, to, rsa, padding);
    }
    ASYNC_WAIT_CTX* wait = ASYNC_get_wait_ctx(job);
    SignRequest request{wake_job, wait};
    if (bound->engine->submit(request, bound->key, std::span{block}.first(size)) == Submit::full)
        return software(bytes, from, to, rsa, padding);
    ++counters.offloaded;
    while (!request.done()) { // a resumption that was not ours is not the end
        if (ASYNC_pause_job() != 1) return -1;
        if (giving_up) { // the request goes with this frame
            ++counters.given_up;
            return -1;
        }
    }
    const SignResult& made = request.result();
    if (!made) return -1;
    std::memcpy(to, made->bytes.data(), size);
    return static_cast<int>(size);
}

/// One method for all keys, for the life of the process.
const RSA_METHOD* method() {
    static const RSA_METHOD* const made = [] {
        bound_index = RSA_get_ex_new_index(0, nullptr, nullptr, nullptr, free_bound);
        RSA_METHOD* copy = RSA_meth_dup(RSA_PKCS1_OpenSSL());
        const bool good = bound_index >= 0 && copy != nullptr &&
                          RSA_meth_set1_name(copy, "offload engine") == 1 &&
                          RSA_meth_set_priv_enc(copy, private_encrypt) == 1;
        return good ? copy : nullptr;
    }();
    return made;
}

} // namespace

void FreeEvpKey::operator()(evp_pkey_st* key) const noexcept {
    EVP_PKEY_free(key);
}

GiveUp::GiveUp() noexcept {
    CHECK(!giving_up && ASYNC_get_current_job() == nullptr);
    giving_up = true;
}
GiveUp::~GiveUp() {
    giving_up = false;
}

void bound_jobs(std::size_t jobs_max) {
    static thread_local bool bound = false;
    if (!bound)
        static_cast<void>(ASYNC_init_thread(jobs_max, 0)); // else there is no memory: no jobs
    bound = true;
}

const AsyncKeyCounters& async_key_counters() noexcept {
    return counters;
}

EvpKeyHandle make_async_key(Engine& engine, const KeyRef& key) {
    RsaHandle rsa = make_private_rsa(key->numbers());
    EvpKeyHandle out{EVP_PKEY_new()};
    const RSA_METHOD* offloaded = method();
    if (!rsa || !out || offloaded == nullptr || RSA_set_method(rsa.get(), offloaded) != 1)
        return nullptr;
    auto bound = std::make_unique<Bound>(Bound{&engine, key});
    if (RSA_set_ex_data(rsa.get(), bound_index, bound.get()) != 1) return nullptr;
    static_cast<void>(bound.release()); // the RSA object's: free_bound()
    if (EVP_PKEY_set1_RSA(out.get(), rsa.get()) != 1) return nullptr;
    return out;
}

} // namespace tls_offload::offload
