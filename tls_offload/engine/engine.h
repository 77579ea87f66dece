// engine.h: a shard's private-key operations, done elsewhere while the shard goes on.
//
// Scope      RSA private operations on padded blocks, over a chain of backends (backend.h): the first that
//            is well does the work, the next takes over what it refuses, loses or gets wrong, and software
//            on this shard is the last. Which backends there are is decided at start (host.h).
// Owns       A copy of each request's input until its result is there or nobody waits for it any more.
//            A backend never sees memory of the waiting side, so that a late completion hurts nobody.
// Threading  Bound to the shard's loop. submit() only queues, also when called on an OpenSSL fibre; work is
//            handed over and taken back in poll(), which the loop's turn calls. Completion only queues: the
//            waiting coroutine resumes in a later step, never inside poll().
// Failure    A request ends in SignError; a backend's failure is no request's failure as long as another
//            backend is left. Every signature that an accelerator made is verified before it is given out.
#pragma once

#include "dataplane/base/link.h"
#include "dataplane/base/loop.h"
#include "dataplane/base/mailbox.h"
#include "dataplane/base/wait.h"
#include "tls_offload/engine/backend.h"
#include "tls_offload/engine/health.h"
#include "tls_offload/engine/known_answer.h"
#include "tls_offload/engine/limits.h"
#include "tls_offload/engine/private_key.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace tls_offload::offload {

enum class SignError : std::uint8_t {
    timed_out,  // the caller's deadline
    cancelled,  // by the caller's CancelSource
    overloaded, // the deadline came before there was even room to wait: requests_max others do
    failed,     // no backend, software included, made a signature that verifies: the key is broken
};
[[nodiscard]] std::string_view to_string(SignError error) noexcept;

struct Signature {
    std::array<std::byte, block_bytes_max> bytes{};
    std::size_t size = 0;
    [[nodiscard]] std::span<const std::byte> view() const noexcept {
        return std::span{bytes}.first(size);
    }
};
using SignResult = std::expected<Signature, SignError>;

class Engine;

/// One private-key operation that is waited for. Lives with whoever waits: in a coroutine's frame, or on
/// the stack of a TLS handshake's fibre. Destroying it cancels it, at any moment.
class SignRequest {
public:
    /// Called once, from poll(): may mark, wake and queue, and nothing else. Not after a destruction.
    using Done = void (*)(SignRequest&) noexcept;

    SignRequest(Done done, void* context) noexcept : context(context), done_(done) {}
    ~SignRequest();
    SignRequest(const SignRequest&) = delete;
    SignRequest& operator=(const SignRequest&) = delete;

    [[nodiscard]] bool done() const noexcept { return finished_; }
    /// \pre  done()
    [[nodiscard]] const SignResult& result() const noexcept { return result_; }
    void* context; // the waiting side's

private:
    friend class Engine;
    Done done_;
    Engine* engine_ = nullptr; // while it waits
    std::uint32_t slot_ = 0;
    bool finished_ = false;
    SignResult result_{std::unexpect, SignError::cancelled};
};

enum class Submit : std::uint8_t { queued, full };

struct EngineCounters {
    std::uint64_t submitted = 0;
    std::uint64_t completed = 0;       // with a signature
    std::uint64_t failed = 0;          // SignError::failed
    std::uint64_t cancelled = 0;       // destroyed before they were done; timeouts included
    std::uint64_t refused = 0;         // Submit::full
    std::uint64_t fallbacks = 0;       // requests that another backend than the first one finished
    std::uint64_t verify_failures = 0; // signatures of an accelerator that did not verify
    std::uint64_t device_errors = 0;   // operations that a backend reported as failed
    std::uint64_t ring_full = 0;       // times a backend took no more
    std::uint64_t lost = 0;            // operations given up because their backend went down
    std::uint64_t late = 0;            // completions of operations that nobody waited for any more
    std::uint64_t downs = 0;           // times a backend went down
    std::uint64_t readmissions = 0;    // times one came back after known-answer signatures
    std::uint64_t batches = 0;         // hand-overs to a backend
    std::uint64_t batched = 0;         // requests in them
    std::uint64_t wait_us_sum = 0;     // from submit() to the result
};

/// What `millracectl offload` shows of one backend.
struct BackendReport {
    std::string_view name;
    BackendState state = BackendState::up;
    std::size_t in_flight = 0;
    std::uint64_t done = 0;
    std::uint64_t errors = 0;
    std::uint64_t strikes = 0; // wrong results
};

struct EngineOptions {
    std::size_t requests = requests_max;
    std::size_t high_water = offload::high_water;
};

class Engine final : public base::Inbox, private base::TurnEnd {
public:
    /// \param backends  best first; the last must be able to do every key (inline_backend.h)
    Engine(base::Loop& loop, std::vector<std::unique_ptr<Backend>> backends,
           EngineOptions options = {});
    ~Engine() override; // cancels what still waits
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    /// PKCS#1 v1.5 signature of a SHA-256 digest: what DKIM's rsa-sha256 is. Waits for room first when
    /// requests_max wait already.
    [[nodiscard]] base::Task<SignResult> sign_sha256(KeyRef key, Sha256Digest digest,
                                                     base::Deadline deadline);
    /// The private operation on a block that the caller has padded.
    /// \param block  key.modulus_bytes() long and below the modulus; copied before return
    /// \pre   the request was not submitted before
    [[nodiscard]] Submit submit(SignRequest& request, const KeyRef& key,
                                std::span<const std::byte> block);

    /// Takes up to `budget` completions from each backend, and hands over what waits.
    /// Returns how many requests were finished.
    std::size_t poll(std::size_t budget = poll_budget);
    /// Requests that somebody waits for.
    [[nodiscard]] std::size_t in_flight() const noexcept { return waiting_count_; }
    /// That of the first backend.
    [[nodiscard]] BackendState state() const noexcept { return ranks_.front().health.state(); }
    [[nodiscard]] const EngineCounters& counters() const noexcept { return counters_; }
    [[nodiscard]] std::size_t backend_count() const noexcept { return ranks_.size(); }
    [[nodiscard]] BackendReport report(std::size_t backend) const noexcept;
    [[nodiscard]] base::Loop& loop() const noexcept { return loop_; }

    // base::Inbox: for a shard's ring, so that a worker's wake-up is followed by poll().
    bool drain() override;
    [[nodiscard]] bool pending() const noexcept override;

private:
    friend class SignRequest;
    static constexpr std::uint32_t nowhere = ~std::uint32_t{0};

    /// Slots in the order they joined, linked through the slots themselves.
    struct List {
        std::uint32_t first = nowhere;
        std::uint32_t last = nowhere;
        std::size_t count = 0;
    };
    enum class Where : std::uint8_t { free, queued, running };
    struct Slot {
        SignRequest* request = nullptr; // null: a known-answer signature of our own
        KeyRef key;
        std::array<std::byte, block_bytes_max> block{};
        base::TimePoint submitted{};
        base::TimePoint handed_over{};
        std::uint32_t generation = 0; // what a completion's token must match
        std::uint32_t next = nowhere;
        std::uint32_t prev = nowhere;
        std::uint8_t rank = 0;     // of the backend it runs on
        std::uint8_t rank_min = 0; // backends before this one have failed it
        Where where = Where::free;
    };
    struct Ranked { // a backend and what we think of it
        std::unique_ptr<Backend> backend;
        Health health;
        List running; // oldest first
        base::TimePoint last_good{};
        std::uint64_t done = 0;
        std::size_t batch = 0; // handed over since the last flush
        bool full = false;     // has refused in this dispatch()
    };
    class Sink;
    struct WatchTimer final : base::Timer {
        explicit WatchTimer(Engine& owner) noexcept : Timer(&WatchTimer::fire), engine(owner) {}
        static void fire(base::Timer& timer) noexcept;
        Engine& engine;
    };

    void turn_end() noexcept override { static_cast<void>(poll()); }
    std::size_t poll_backends(std::size_t budget, bool woken_only);
    void dispatch();
    bool hand_over(std::uint32_t index);
    [[nodiscard]] bool may_overflow(const Slot& slot, std::size_t rank) const noexcept;
    void completed(std::size_t rank, const Completion& completion);
    void known_answer_completed(std::uint32_t index, std::size_t rank,
                                const Completion& completion);
    void finish(std::uint32_t index, std::size_t rank, std::span<const std::byte> signature);
    void fail(std::uint32_t index);
    void tell(std::uint32_t index, SignResult&& result);
    void redo(std::uint32_t index, std::size_t failed_rank);
    void cancel(SignRequest& request) noexcept;
    void apply(std::size_t rank, Health::Verdict verdict);
    void watch();
    void watch_one(std::size_t rank);
    void probe(std::size_t rank);
    void arm();

    std::uint32_t take_slot() noexcept;
    void release(std::uint32_t index) noexcept;
    void join(List& list, std::uint32_t index, bool in_front = false) noexcept;
    void leave(List& list, std::uint32_t index) noexcept;

    base::Loop& loop_;
    EngineOptions options_;
    std::vector<Ranked> ranks_;
    std::unique_ptr<KnownAnswer> known_; // null when there is only software
    std::vector<Slot> slots_;
    List free_;
    List queue_;
    std::size_t waiting_count_ = 0;
    std::size_t finished_count_ = 0; // in this poll
    bool polling_ = false;
    base::TimePoint next_heartbeat_{};
    base::TimePoint watch_due_{};
    EngineCounters counters_;
    base::WaitQueue room_{"offload: room"};
    WatchTimer watch_timer_;
};

} // namespace tls_offload::offload
