#include "tls_offload/engine/qat_engine.h"

#include "dataplane/base/check.h"
#include "tls_offload/engine/key_state.h"

#include <array>
#include <chrono>
#include <cstring>
#include <openssl/async.h>
#include <openssl/engine.h>
#include <openssl/err.h>
#include <string_view>
#include <thread>
#include <vector>

namespace tls_offload::offload {
namespace {

using WaitCtxHandle = std::unique_ptr<ASYNC_WAIT_CTX, ReleaseWith<ASYNC_WAIT_CTX_free>>;

// What destroying a backend waits for operations that the device still has: they cannot be taken back.
constexpr auto drain_max = std::chrono::milliseconds{500};

std::string openssl_reason() {
    const unsigned long code = ERR_peek_last_error();
    ERR_clear_error();
    const char* reason = code == 0 ? nullptr : ERR_reason_error_string(code);
    return reason == nullptr ? "no reason given" : reason;
}

/// A control command by number, so that polling compares no names; 0 when the engine has none of that name.
int command(ENGINE* engine, const char* name) {
    const int number =
        ENGINE_ctrl(engine, ENGINE_CTRL_GET_CMD_FROM_NAME, 0, const_cast<char*>(name), nullptr);
    ERR_clear_error();
    return number > 0 ? number : 0;
}

bool control(ENGINE* engine, const char* name, long number = 0, void* data = nullptr) {
    const int which = command(engine, name);
    const bool taken = which != 0 && ENGINE_ctrl(engine, which, number, data, nullptr) == 1;
    ERR_clear_error();
    return taken;
}

ENGINE* find(const QatEngineOptions& options, std::string& why) {
    ERR_clear_error();
    if (options.file.empty()) {
        ENGINE* found = ENGINE_by_id(options.id.c_str());
        if (found == nullptr) {
            why = "OpenSSL has no engine \"" + options.id + "\" (" + openssl_reason() + ")";
        }
        return found;
    }
    ENGINE_load_dynamic();
    ENGINE* found = ENGINE_by_id("dynamic");
    if (found != nullptr &&
        ENGINE_ctrl_cmd_string(found, "SO_PATH", options.file.c_str(), 0) == 1 &&
        ENGINE_ctrl_cmd_string(found, "LIST_ADD", "1", 0) == 1 && // so that its name finds it again
        ENGINE_ctrl_cmd_string(found, "LOAD", nullptr, 0) == 1)
        return found;
    why = options.file + " cannot be loaded as an OpenSSL engine (" + openssl_reason() + ")";
    ENGINE_free(found);
    return nullptr;
}

} // namespace

std::expected<std::unique_ptr<QatEngine>, std::string>
QatEngine::open(const QatEngineOptions& options) {
    std::string why;
    ENGINE* engine = find(options, why);
    if (engine == nullptr) return std::unexpected(std::move(why));
    const auto refuse = [&](std::string reason) {
        ENGINE_free(engine);
        return std::unexpected("engine \"" + options.id + "\": " + std::move(reason));
    };
    for (const char* needed : {"ENABLE_EXTERNAL_POLLING", "POLL", "SET_INSTANCE_FOR_THREAD",
                               "GET_NUM_CRYPTO_INSTANCES"}) {
        if (command(engine, needed) == 0)
            return refuse("it has no command " + std::string{needed} + ", so it is no QAT_Engine");
    }
    if (!control(engine, "ENABLE_EXTERNAL_POLLING")) return refuse("it refuses external polling");
    // Not there in builds on qatlib. Our own software fallback stands behind it either way.
    static_cast<void>(control(engine, "ENABLE_SW_FALLBACK"));
    if (ENGINE_init(engine) != 1)
        return refuse("it finds no device (" + openssl_reason() +
                      "); is the driver loaded, is qat started?");
    int instances = 0;
    if (!control(engine, "GET_NUM_CRYPTO_INSTANCES", 0, &instances) || instances < 1) {
        ENGINE_finish(engine);
        return refuse("it has no crypto instance; give it some in the driver's configuration");
    }
    if (static_cast<unsigned>(instances) < options.shards) {
        ENGINE_finish(engine);
        return refuse("it has " + std::to_string(instances) + " crypto instances for " +
                      std::to_string(options.shards) + " shards; each shard needs its own");
    }
    if (ENGINE_get_RSA(engine) == nullptr) {
        ENGINE_finish(engine);
        return refuse("it offers no RSA");
    }
    return std::unique_ptr<QatEngine>(
        new QatEngine(engine, options, static_cast<unsigned>(instances)));
}

class QatEngine::ShardBackend final : public Backend {
public:
    ShardBackend(const QatEngine& engine, unsigned shard)
        : traits_{.name = "qatengine",
                  .must_poll = true,
                  .stuck_after = engine.options_.stuck_after},
          engine_(engine.engine_), instance_(shard % engine.instances_),
          method_(ENGINE_get_RSA(engine.engine_)), poll_command_(command(engine_, "POLL")),
          heartbeat_command_(command(engine_, "HEARTBEAT_POLL")),
          operations_(std::make_unique<std::vector<Held>>(engine.options_.operations)) {
        for (Held& held : *operations_) {
            held.wait.reset(ASYNC_WAIT_CTX_new());
            CHECK(held.wait != nullptr &&
                  ASYNC_WAIT_CTX_set_callback(held.wait.get(), on_wake, &held) == 1);
            free_.push_back(&held);
        }
    }

    ~ShardBackend() override {
        const auto give_up = std::chrono::steady_clock::now() + drain_max;
        class Nobody final : public CompletionSink {
            void completed(const Completion&) override {}
        } nobody;
        while (in_flight() != 0 && std::chrono::steady_clock::now() < give_up) {
            static_cast<void>(poll({}, operations_->size(), nobody));
            std::this_thread::yield();
        }
        // A device that is dead may come back and write to the stacks of the jobs it still has: they stay
        // where they are, and all that they point to.
        if (in_flight() != 0) static_cast<void>(operations_.release());
    }

    [[nodiscard]] const BackendTraits& traits() const noexcept override { return traits_; }

    [[nodiscard]] Taken submit(const Operation& operation) override {
        if (free_.empty() || stalled_count_ != 0) return Taken::full;
        if (!bound_) {
            bound_ = true;
            static_cast<void>(
                control(engine_, "SET_INSTANCE_FOR_THREAD", static_cast<long>(instance_)));
        }
        KeyState& state = operation.key->state();
        if (!state.device) {
            state.device = make_private_rsa(operation.key->numbers());
            if (!state.device || RSA_set_method(state.device.get(), method_) != 1) {
                state.device.reset();
                return Taken::unsupported;
            }
        }
        Held& held = *free_.back();
        free_.pop_back();
        held.token = operation.token;
        held.key = operation.key;
        held.job = nullptr;
        held.made = false;
        std::memcpy(held.block.data(), operation.block.data(), operation.block.size());
        running_.push_back(&held);
        if (advance(held)) return Taken::yes;
        running_.pop_back(); // no job to be had: OpenSSL is out of memory, or at its bound
        give_back(held);
        return Taken::full;
    }

    void flush(base::TimePoint) override {}

    std::size_t poll(base::TimePoint, std::size_t budget, CompletionSink& sink) override {
        int status = 0;
        static_cast<void>(ENGINE_ctrl(engine_, poll_command_, 0, &status, nullptr));
        ERR_clear_error();
        std::size_t count = 0;
        for (std::size_t i = 0; i < running_.size() && count < budget;) {
            Held& held = *running_[i];
            if (!held.finished && (held.ready || held.stalled)) static_cast<void>(advance(held));
            if (!held.finished) {
                ++i;
                continue;
            }
            running_[i] = running_.back();
            running_.pop_back();
            ++count;
            sink.completed(
                {.token = held.token,
                 .outcome = held.made ? Outcome::signed_unverified : Outcome::failed,
                 .signature = std::span{held.signature}.first(held.key->modulus_bytes())});
            give_back(held);
        }
        return count;
    }

    [[nodiscard]] bool pending() const noexcept override { return !running_.empty(); }
    [[nodiscard]] std::size_t in_flight() const noexcept override { return running_.size(); }

    [[nodiscard]] bool heartbeat() override {
        if (heartbeat_command_ == 0) return true; // not there in builds on qatlib
        int alive = 1;
        const int taken = ENGINE_ctrl(engine_, heartbeat_command_, 0, &alive, nullptr);
        ERR_clear_error();
        return taken == 1 && alive == 1;
    }
    [[nodiscard]] bool revive() override { return heartbeat(); }

private:
    struct Held {
        std::uint64_t token = 0;
        KeyRef key;
        WaitCtxHandle wait;
        ASYNC_JOB* job = nullptr;
        bool ready = false;    // the engine has called back
        bool stalled = false;  // its ring was full: it wants to be resumed until it is not
        bool finished = false; // the job has run to its end
        bool made = false;
        std::array<std::byte, block_bytes_max> block{};
        std::array<std::byte, block_bytes_max> signature{};
    };

    static int on_wake(void* context) {
        static_cast<Held*>(context)->ready = true;
        return 1;
    }

    /// Runs on the job's own stack of 32 KiB, on which the engine pauses.
    static int run(void* argument) {
        Held& held = **static_cast<Held**>(argument);
        const auto size = static_cast<int>(held.key->modulus_bytes());
        held.made =
            RSA_private_encrypt(size, reinterpret_cast<const unsigned char*>(held.block.data()),
                                reinterpret_cast<unsigned char*>(held.signature.data()),
                                held.key->state().device.get(), RSA_NO_PADDING) == size;
        return 1;
    }

    /// Starts or resumes a job. False when there is no job to be had.
    bool advance(Held& held) {
        held.ready = false;
        if (held.stalled) {
            held.stalled = false;
            --stalled_count_;
        }
        static_cast<void>(ASYNC_WAIT_CTX_set_status(held.wait.get(), ASYNC_STATUS_OK));
        Held* self = &held;
        int result = 0;
        const int state = ASYNC_start_job(&held.job, held.wait.get(), &result, &run,
                                          static_cast<void*>(&self), sizeof self);
        ERR_clear_error();
        switch (state) {
        case ASYNC_PAUSE:
            if (ASYNC_WAIT_CTX_get_status(held.wait.get()) == ASYNC_STATUS_EAGAIN) {
                held.stalled = true;
                ++stalled_count_;
            }
            return true;
        case ASYNC_FINISH:
            held.finished = true;
            return true;
        case ASYNC_NO_JOBS:
            return false;
        default:
            held.finished = true; // ASYNC_ERR: nothing was made
            held.made = false;
            return true;
        }
    }

    void give_back(Held& held) {
        held.key.reset();
        held.finished = held.ready = false;
        free_.push_back(&held);
    }

    BackendTraits traits_;
    ENGINE* engine_;
    unsigned instance_;
    const RSA_METHOD* method_;
    int poll_command_;
    int heartbeat_command_;
    bool bound_ = false;
    std::unique_ptr<std::vector<Held>> operations_; // jobs point into it
    std::vector<Held*> free_;
    std::vector<Held*> running_;
    std::size_t stalled_count_ = 0;
};

std::unique_ptr<Backend> QatEngine::backend(unsigned shard) {
    return std::make_unique<ShardBackend>(*this, shard);
}

} // namespace tls_offload::offload
