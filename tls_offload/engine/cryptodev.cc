#include "tls_offload/engine/cryptodev.h"

#include "dataplane/base/check.h"

#include <rte_crypto.h>
#include <rte_crypto_asym.h>
#include <rte_cryptodev.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_mempool.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <list>
#include <unordered_map>
#include <vector>

namespace tls_offload::offload {
namespace {

constexpr std::uint16_t burst = 32;
// A burst of the smallest device there is: what an operation may have to wait behind.
constexpr auto stuck_after_hardware = std::chrono::milliseconds{20};
// The software twin signs in enqueue(), on the shard: a queue of it is as slow as the core.
constexpr auto stuck_after_software = std::chrono::seconds{5};

struct PoolRelease {
    void operator()(rte_mempool* pool) const noexcept { rte_mempool_free(pool); }
};
using PoolHandle = std::unique_ptr<rte_mempool, PoolRelease>;

/// What travels with an operation, in DPDK's memory behind it: a device may write here at any time.
struct Payload {
    std::uint64_t token;
    std::uint32_t index;
    std::uint32_t size;
    std::array<std::uint8_t, block_bytes_max> block;
    std::array<std::uint8_t, block_bytes_max> signature;
};

Payload& payload_of(rte_crypto_op* op) noexcept {
    return *reinterpret_cast<Payload*>(reinterpret_cast<std::uint8_t*>(op + 1) +
                                       sizeof(rte_crypto_asym_op));
}

rte_crypto_param number(std::span<const std::byte> bytes) noexcept {
    rte_crypto_param out{};
    // Only read: DPDK's structure serves input and output alike.
    out.data = const_cast<std::uint8_t*>(reinterpret_cast<const std::uint8_t*>(bytes.data()));
    out.length = bytes.size();
    return out;
}

bool signs_with_rsa(std::uint8_t device) noexcept {
    rte_cryptodev_info info{};
    rte_cryptodev_info_get(device, &info);
    if ((info.feature_flags & RTE_CRYPTODEV_FF_ASYMMETRIC_CRYPTO) == 0) return false;
    const rte_cryptodev_asym_capability_idx rsa{.type = RTE_CRYPTO_ASYM_XFORM_RSA};
    const auto* able = rte_cryptodev_asym_capability_get(device, &rsa);
    return able != nullptr &&
           rte_cryptodev_asym_xform_capability_check_optype(able, RTE_CRYPTO_ASYM_OP_SIGN) == 1;
}

std::expected<std::uint8_t, std::string> find(const CryptodevOptions& options) {
    if (options.device.empty()) {
        for (unsigned device = 0; device < RTE_CRYPTO_MAX_DEVS; ++device) {
            if (rte_cryptodev_is_valid_dev(static_cast<std::uint8_t>(device)) != 0 &&
                signs_with_rsa(static_cast<std::uint8_t>(device)))
                return static_cast<std::uint8_t>(device);
        }
        return std::unexpected(
            "no crypto device that signs with RSA; bind a QAT virtual function to vfio-pci, "
            "or name one as [offload] device");
    }
    int found = rte_cryptodev_get_dev_id(options.device.c_str());
    if (found < 0 && options.device.starts_with("crypto_")) {
        const std::string arguments = "max_nb_queue_pairs=" + std::to_string(options.shards);
        if (rte_eal_hotplug_add("vdev", options.device.c_str(), arguments.c_str()) != 0) {
            return std::unexpected("virtual crypto device \"" + options.device +
                                   "\" cannot be made (" + rte_strerror(rte_errno) +
                                   "); is its driver installed?");
        }
        found = rte_cryptodev_get_dev_id(options.device.c_str());
    }
    if (found < 0)
        return std::unexpected("no crypto device \"" + options.device +
                               "\"; is it bound to vfio-pci?");
    if (!signs_with_rsa(static_cast<std::uint8_t>(found)))
        return std::unexpected("crypto device \"" + options.device + "\" does not sign with RSA");
    return static_cast<std::uint8_t>(found);
}

} // namespace

struct Cryptodev::State {
    std::uint8_t device = 0;
    std::string name;
    std::string driver;
    bool by_exponent = false; // the device wants d; otherwise p, q and what goes with them
    bool software = false;
    int socket = 0;
    CryptodevOptions options;
    bool started = false;
    std::vector<PoolHandle> operations; // one for each shard
    std::vector<PoolHandle> sessions;

    ~State() {
        if (!started) return;
        rte_cryptodev_stop(device);
        rte_cryptodev_close(device);
    }
};

Cryptodev::Cryptodev(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
Cryptodev::~Cryptodev() = default;
const std::string& Cryptodev::device() const noexcept {
    return state_->name;
}
const std::string& Cryptodev::driver() const noexcept {
    return state_->driver;
}

std::expected<std::unique_ptr<Cryptodev>, std::string>
Cryptodev::open(const CryptodevOptions& options) {
    const auto device = find(options);
    if (!device) return std::unexpected(device.error());
    rte_cryptodev_info info{};
    rte_cryptodev_info_get(*device, &info);
    auto state = std::make_unique<State>();
    state->device = *device;
    state->name = rte_cryptodev_name_get(*device);
    state->driver = info.driver_name;
    state->options = options;
    state->by_exponent = (info.feature_flags & RTE_CRYPTODEV_FF_RSA_PRIV_OP_KEY_QT) == 0;
    state->software = (info.feature_flags & RTE_CRYPTODEV_FF_HW_ACCELERATED) == 0;
    state->socket = std::max(rte_cryptodev_socket_id(*device), 0);
    const auto refuse = [&](const std::string& what, int error) {
        return std::unexpected("crypto device \"" + state->name + "\": " + what + ": " +
                               rte_strerror(error < 0 ? -error : error));
    };
    if (options.shards > info.max_nb_queue_pairs) {
        return std::unexpected("crypto device \"" + state->name + "\" has " +
                               std::to_string(info.max_nb_queue_pairs) + " queue pairs for " +
                               std::to_string(options.shards) +
                               " shards; each shard needs its own");
    }
    rte_cryptodev_config config{};
    config.socket_id = state->socket;
    config.nb_queue_pairs = static_cast<std::uint16_t>(options.shards);
    if (const int error = rte_cryptodev_configure(*device, &config); error != 0)
        return refuse("it cannot be configured", error);
    for (unsigned shard = 0; shard < options.shards; ++shard) {
        rte_cryptodev_qp_conf queue{};
        queue.nb_descriptors = options.operations;
        if (const int error = rte_cryptodev_queue_pair_setup(
                *device, static_cast<std::uint16_t>(shard), &queue, state->socket);
            error != 0)
            return refuse("queue pair " + std::to_string(shard) + " cannot be set up", error);
        const std::string suffix = std::to_string(*device) + "_" + std::to_string(shard);
        // No caches: each shard takes all of its operations once and keeps them.
        state->operations.emplace_back(rte_crypto_op_pool_create(
            ("offload_op_" + suffix).c_str(), RTE_CRYPTO_OP_TYPE_ASYMMETRIC, options.operations, 0,
            sizeof(Payload), state->socket));
        state->sessions.emplace_back(rte_cryptodev_asym_session_pool_create(
            ("offload_key_" + suffix).c_str(), options.keys_max + 1, 0, 0, state->socket));
        if (!state->operations.back() || !state->sessions.back())
            return refuse("no memory for its operations", rte_errno);
    }
    if (const int error = rte_cryptodev_start(*device); error != 0)
        return refuse("it does not start", error);
    state->started = true;
    return std::unique_ptr<Cryptodev>(new Cryptodev(std::move(state)));
}

class Cryptodev::ShardBackend final : public Backend {
public:
    ShardBackend(State& state, unsigned shard)
        : state_(state), queue_(static_cast<std::uint16_t>(shard)), held_(state.options.operations),
          traits_{.name = "cryptodev",
                  .must_poll = true,
                  .stuck_after = state.software ? base::Duration{stuck_after_software}
                                                : base::Duration{stuck_after_hardware}} {
        pool_ = state.operations[shard].get();
        session_pool_ = state.sessions[shard].get();
        free_.resize(held_.size());
        const auto count = static_cast<std::uint16_t>(free_.size());
        CHECK(rte_crypto_op_bulk_alloc(pool_, RTE_CRYPTO_OP_TYPE_ASYMMETRIC, free_.data(), count) ==
              count);
        for (std::uint32_t index = 0; index < free_.size(); ++index)
            payload_of(free_[index]).index = index;
    }

    ~ShardBackend() override {
        class Nobody final : public CompletionSink {
            void completed(const Completion&) override {}
        } nobody;
        for (unsigned round = 0; in_flight_ != 0 && round < 1000; ++round) {
            flush({});
            static_cast<void>(poll({}, held_.size(), nobody));
        }
        // What a dead device has not given back stays the pool's, and so do its sessions.
        for (auto& [key, session] : sessions_) {
            if (session.users == 0)
                static_cast<void>(rte_cryptodev_asym_session_free(state_.device, session.handle));
        }
        for (rte_crypto_op* op : free_)
            rte_crypto_op_free(op);
    }

    [[nodiscard]] const BackendTraits& traits() const noexcept override { return traits_; }

    [[nodiscard]] Taken submit(const Operation& operation) override {
        if (free_.empty() || stalled_) return Taken::full;
        Session* session = session_of(operation.key);
        if (session == nullptr) return Taken::unsupported;
        rte_crypto_op* op = free_.back();
        free_.pop_back();
        Payload& payload = payload_of(op);
        payload.token = operation.token;
        payload.size = static_cast<std::uint32_t>(operation.block.size());
        std::memcpy(payload.block.data(), operation.block.data(), operation.block.size());
        op->status = RTE_CRYPTO_OP_STATUS_NOT_PROCESSED;
        rte_crypto_op_attach_asym_session(
            op, static_cast<rte_cryptodev_asym_session*>(session->handle));
        rte_crypto_rsa_op_param& rsa = op->asym->rsa;
        rsa = {};
        rsa.op_type = RTE_CRYPTO_ASYM_OP_SIGN;
        rsa.padding.type = RTE_CRYPTO_RSA_PADDING_NONE;
        const rte_iova_t at = rte_mempool_virt2iova(op);
        const auto place = [&](std::uint8_t* data) {
            rte_crypto_param out{};
            out.data = data;
            out.iova = at + static_cast<rte_iova_t>(data - reinterpret_cast<std::uint8_t*>(op));
            out.length = payload.size;
            return out;
        };
        rsa.message = place(payload.block.data());
        rsa.sign = place(payload.signature.data());
        held_[payload.index] = {operation.key, session};
        ++session->users;
        ++in_flight_;
        staged_.push_back(op);
        return Taken::yes;
    }

    void flush(base::TimePoint) override {
        std::size_t sent = 0;
        while (sent < staged_.size()) {
            const auto wanted =
                static_cast<std::uint16_t>(std::min<std::size_t>(staged_.size() - sent, burst));
            const std::uint16_t taken =
                rte_cryptodev_enqueue_burst(state_.device, queue_, staged_.data() + sent, wanted);
            sent += taken;
            if (taken < wanted) break;
        }
        staged_.erase(staged_.begin(), staged_.begin() + static_cast<std::ptrdiff_t>(sent));
        stalled_ =
            !staged_.empty(); // the device's ring is full: nothing new until it has taken these
    }

    std::size_t poll(base::TimePoint now, std::size_t budget, CompletionSink& sink) override {
        if (stalled_) flush(now);
        std::array<rte_crypto_op*, burst> done;
        std::size_t count = 0;
        while (count < budget) {
            const auto wanted =
                static_cast<std::uint16_t>(std::min<std::size_t>(budget - count, burst));
            const std::uint16_t came =
                rte_cryptodev_dequeue_burst(state_.device, queue_, done.data(), wanted);
            for (std::uint16_t i = 0; i < came; ++i)
                give_back(done[i], sink);
            count += came;
            if (came < wanted) break;
        }
        return count;
    }

    [[nodiscard]] bool pending() const noexcept override { return in_flight_ != 0; }
    [[nodiscard]] std::size_t in_flight() const noexcept override { return in_flight_; }

private:
    struct Session {
        void* handle = nullptr;
        std::size_t users = 0; // operations under way
        KeyRef key;
        std::list<const PrivateKey*>::iterator place;
    };
    struct Held {
        KeyRef key;
        Session* session = nullptr;
    };

    void give_back(rte_crypto_op* op, CompletionSink& sink) {
        const Payload& payload = payload_of(op);
        const bool made = op->status == RTE_CRYPTO_OP_STATUS_SUCCESS;
        sink.completed(
            {.token = payload.token,
             .outcome = made ? Outcome::signed_unverified : Outcome::failed,
             .signature = std::as_bytes(std::span{payload.signature}.first(payload.size))});
        Held& held = held_[payload.index];
        --held.session->users;
        held = {};
        --in_flight_;
        free_.push_back(op);
    }

    /// The device's copy of a key, made at its first use. Null: no memory, or the device refuses the key.
    Session* session_of(const KeyRef& key) {
        if (const auto known = sessions_.find(key.get()); known != sessions_.end()) {
            used_.splice(used_.end(), used_, known->second.place);
            return &known->second;
        }
        if (sessions_.size() >= state_.options.keys_max && !forget_one()) return nullptr;
        const KeyNumbers& numbers = key->numbers();
        rte_crypto_asym_xform form{};
        form.xform_type = RTE_CRYPTO_ASYM_XFORM_RSA;
        form.rsa.n = number(numbers.n);
        form.rsa.e = number(numbers.e);
        if (state_.by_exponent) {
            form.rsa.key_type = RTE_RSA_KEY_TYPE_EXP;
            form.rsa.d = number(numbers.d);
        } else {
            form.rsa.key_type = RTE_RSA_KEY_TYPE_QT;
            form.rsa.qt = {.p = number(numbers.p),
                           .q = number(numbers.q),
                           .dP = number(numbers.dp),
                           .dQ = number(numbers.dq),
                           .qInv = number(numbers.qinv)};
        }
        void* handle = nullptr;
        if (rte_cryptodev_asym_session_create(state_.device, &form, session_pool_, &handle) != 0)
            return nullptr;
        Session& made = sessions_[key.get()];
        made.handle = handle;
        made.key = key; // so that its address stays the name of it
        made.place = used_.insert(used_.end(), key.get());
        return &made;
    }

    /// Drops the session used longest ago of those that no operation uses.
    bool forget_one() {
        for (const PrivateKey* key : used_) {
            const auto found = sessions_.find(key);
            if (found->second.users != 0) continue;
            static_cast<void>(rte_cryptodev_asym_session_free(state_.device, found->second.handle));
            used_.erase(found->second.place);
            sessions_.erase(found);
            return true;
        }
        return false;
    }

    State& state_;
    std::uint16_t queue_;
    rte_mempool* pool_ = nullptr;
    rte_mempool* session_pool_ = nullptr;
    std::vector<rte_crypto_op*> free_;
    std::vector<rte_crypto_op*> staged_;
    std::vector<Held> held_; // by the operation's index
    std::unordered_map<const PrivateKey*, Session> sessions_;
    std::list<const PrivateKey*> used_; // longest ago first
    std::size_t in_flight_ = 0;
    bool stalled_ = false;
    BackendTraits traits_;
};

std::unique_ptr<Backend> Cryptodev::backend(unsigned shard) {
    CHECK(shard < state_->options.shards);
    return std::make_unique<ShardBackend>(*state_, shard);
}

} // namespace tls_offload::offload
