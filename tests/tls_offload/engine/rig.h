// rig.h: keys, expected signatures, and an engine on a loop that turns, for the tests of the offload engine.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/wait.h"
#include "tls_offload/engine/engine.h"
#include "tls_offload/engine/inline_backend.h"
#include "tls_offload/engine/private_key.h"

#include <array>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <functional>
#include <memory>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <optional>
#include <string>
#include <vector>

namespace tests {

namespace base = dataplane::base;
namespace offload = tls_offload::offload;
using namespace std::chrono_literals;

struct FreeKey {
    void operator()(EVP_PKEY* key) const noexcept { EVP_PKEY_free(key); }
};
using EvpKey = std::unique_ptr<EVP_PKEY, FreeKey>;

inline std::string to_pem(const EVP_PKEY& key) {
    BIO* bio = BIO_new(BIO_s_mem());
    PEM_write_bio_PrivateKey(bio, &key, nullptr, nullptr, 0, nullptr, nullptr);
    char* data = nullptr;
    const long bytes = BIO_get_mem_data(bio, &data);
    std::string pem(data, static_cast<std::size_t>(bytes));
    BIO_free(bio);
    return pem;
}

/// A key of this size, made once for the whole run: RSA-4096 takes a second.
inline EVP_PKEY& evp_key(unsigned bits, unsigned number = 0) {
    static std::vector<std::tuple<unsigned, unsigned, EvpKey>> keys;
    for (auto& [size, which, key] : keys) {
        if (size == bits && which == number) return *key;
    }
    keys.emplace_back(bits, number, EvpKey{EVP_RSA_gen(bits)});
    return *std::get<2>(keys.back());
}

inline offload::KeyRef engine_key(unsigned bits, unsigned number = 0) {
    auto made = offload::PrivateKey::from_evp(evp_key(bits, number));
    CHECK(made.has_value());
    return *made;
}

inline offload::Sha256Digest digest_of(std::string_view text) {
    offload::Sha256Digest digest;
    std::size_t length = 0;
    EVP_Q_digest(nullptr, "SHA256", nullptr, text.data(), text.size(),
                 reinterpret_cast<unsigned char*>(digest.data()), &length);
    return digest;
}

/// What OpenSSL's EVP interface signs: the reference for every backend.
inline std::vector<std::byte> reference(EVP_PKEY& key, std::string_view text) {
    EVP_MD_CTX* context = EVP_MD_CTX_new();
    EVP_DigestSignInit(context, nullptr, EVP_sha256(), nullptr, &key);
    std::vector<std::byte> signature(static_cast<std::size_t>(EVP_PKEY_get_size(&key)));
    std::size_t bytes = signature.size();
    CHECK(EVP_DigestSign(context, reinterpret_cast<unsigned char*>(signature.data()), &bytes,
                         reinterpret_cast<const unsigned char*>(text.data()), text.size()) == 1);
    EVP_MD_CTX_free(context);
    return signature;
}

inline bool same(const offload::SignResult& result, const std::vector<std::byte>& expected) {
    return result && result->size == expected.size() &&
           std::memcmp(result->bytes.data(), expected.data(), expected.size()) == 0;
}

/// An engine on a loop whose time is real or, with `manual`, the test's.
struct Rig {
    using Backends = std::vector<std::unique_ptr<offload::Backend>>;

    explicit Rig(Backends backends, offload::EngineOptions options = {}, bool manual = false)
        : clock(manual), engine(loop, std::move(backends), options) {}
    ~Rig() { loop.drop_tasks(); }

    struct AnyClock final : base::Clock {
        explicit AnyClock(bool by_hand) : manual(by_hand) {}
        [[nodiscard]] base::TimePoint now() const noexcept override {
            return manual ? manual_clock.now() : real.now();
        }
        [[nodiscard]] base::WallTime wall_now() const noexcept override {
            return manual ? manual_clock.wall_now() : real.wall_now();
        }
        const bool manual;
        base::RealClock real;
        base::ManualClock manual_clock;
    };

    /// Turns the loop until `done`, for at most `limit` of the loop's time. Returns whether it is done.
    bool turn_until(const std::function<bool()>& done, base::Duration limit = 20s,
                    base::Duration step = 100us) {
        const base::TimePoint end = clock.now() + limit;
        while (!done()) {
            if (clock.now() > end) return false;
            if (clock.manual) clock.manual_clock.advance(step);
            loop.turn();
        }
        return true;
    }
    void turn_for(base::Duration time, base::Duration step = 100us) {
        const base::TimePoint end = clock.now() + time;
        turn_until([&] { return clock.now() >= end; }, time + 1s, step);
    }

    struct Job {
        std::optional<offload::SignResult> result;
    };
    static base::Task<void> run(offload::Engine& engine, offload::KeyRef key,
                                offload::Sha256Digest digest, base::Deadline deadline, Job& job) {
        const offload::SignResult made = co_await engine.sign_sha256(key, digest, deadline);
        job.result = made;
    }
    void sign(const offload::KeyRef& key, std::string_view text, Job& job,
              base::Deadline deadline = base::Deadline::never()) {
        loop.spawn(run(engine, key, digest_of(text), deadline, job), "test: sign");
    }

    AnyClock clock;
    base::Loop loop{clock};
    offload::Engine engine;
};

/// A request of the kind that TLS makes: a flag instead of a coroutine.
struct FlagRequest {
    FlagRequest()
        : request([](offload::SignRequest& done) noexcept { ++*static_cast<int*>(done.context); },
                  &calls) {}
    int calls = 0;
    offload::SignRequest request;
};

inline std::vector<std::byte> padded(const offload::KeyRef& key, std::string_view text) {
    std::vector<std::byte> block(key->modulus_bytes());
    offload::pad_pkcs1_sha256(digest_of(text), block);
    return block;
}

} // namespace tests
