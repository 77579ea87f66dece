#include "tls_offload/engine/engine.h"

#include "tls_offload/engine/key_state.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace tls_offload::offload {

std::string_view to_string(SignError error) noexcept {
    switch (error) {
    case SignError::timed_out:
        return "timed out";
    case SignError::cancelled:
        return "cancelled";
    case SignError::overloaded:
        return "too many signatures wait already";
    case SignError::failed:
        return "the key does not sign";
    }
    return "unknown failure of a signature";
}

SignRequest::~SignRequest() {
    if (engine_ != nullptr) engine_->cancel(*this);
}

class Engine::Sink final : public CompletionSink {
public:
    Sink(Engine& engine, std::size_t rank) noexcept : engine_(engine), rank_(rank) {}
    void completed(const Completion& completion) override { engine_.completed(rank_, completion); }

private:
    Engine& engine_;
    std::size_t rank_;
};

Engine::Engine(base::Loop& loop, std::vector<std::unique_ptr<Backend>> backends,
               EngineOptions options)
    : TurnEnd(base::Room::tls), loop_(loop), options_(options), watch_timer_(*this) {
    CHECK(!backends.empty() && backends.size() < 256 && options.requests > 0);
    CHECK(backends.back()->traits().software);
    ranks_.resize(backends.size());
    for (std::size_t rank = 0; rank < backends.size(); ++rank)
        ranks_[rank].backend = std::move(backends[rank]);
    if (ranks_.size() > 1) known_ = std::make_unique<KnownAnswer>();
    slots_.resize(options.requests + ranks_.size()); // each backend may be under trial
    for (std::uint32_t index = 0; index < slots_.size(); ++index)
        join(free_, index);
    next_heartbeat_ = loop.now() + heartbeat_interval;
    arm();
}

Engine::~Engine() {
    for (Slot& slot : slots_) {
        if (slot.request == nullptr) continue;
        slot.request->engine_ = nullptr;
        slot.request->finished_ = true; // with the result it was made with: cancelled
    }
}

// --- Lists of slots

void Engine::join(List& list, std::uint32_t index, bool in_front) noexcept {
    Slot& slot = slots_[index];
    slot.prev = in_front ? nowhere : list.last;
    slot.next = in_front ? list.first : nowhere;
    (slot.prev == nowhere ? list.first : slots_[slot.prev].next) = index;
    (slot.next == nowhere ? list.last : slots_[slot.next].prev) = index;
    ++list.count;
}

void Engine::leave(List& list, std::uint32_t index) noexcept {
    const Slot& slot = slots_[index];
    (slot.prev == nowhere ? list.first : slots_[slot.prev].next) = slot.next;
    (slot.next == nowhere ? list.last : slots_[slot.next].prev) = slot.prev;
    --list.count;
}

std::uint32_t Engine::take_slot() noexcept {
    const std::uint32_t index = free_.first;
    if (index != nowhere) leave(free_, index);
    return index;
}

void Engine::release(std::uint32_t index) noexcept {
    Slot& slot = slots_[index];
    ++slot.generation; // what still comes for it is late
    slot.where = Where::free;
    slot.request = nullptr;
    slot.key.reset();
    join(free_, index);
    room_.wake_one();
}

// --- The waiting side

Submit Engine::submit(SignRequest& request, const KeyRef& key, std::span<const std::byte> block) {
    CHECK(request.engine_ == nullptr && !request.finished_);
    CHECK(key && block.size() == key->modulus_bytes());
    if (waiting_count_ == options_.requests) {
        ++counters_.refused;
        return Submit::full;
    }
    const std::uint32_t index = take_slot();
    CHECK(index != nowhere);
    Slot& slot = slots_[index];
    slot.request = &request;
    slot.key = key;
    std::memcpy(slot.block.data(), block.data(), block.size());
    slot.submitted = loop_.now();
    slot.rank_min = 0;
    slot.where = Where::queued;
    join(queue_, index);
    request.engine_ = this;
    request.slot_ = index;
    ++waiting_count_;
    ++counters_.submitted;
    loop_.at_turn_end(*this);
    return Submit::queued;
}

void Engine::cancel(SignRequest& request) noexcept {
    Slot& slot = slots_[request.slot_];
    CHECK(slot.request == &request);
    leave(slot.where == Where::queued ? queue_ : ranks_[slot.rank].running, request.slot_);
    --waiting_count_;
    ++counters_.cancelled;
    request.engine_ = nullptr;
    release(request.slot_);
}

base::Task<SignResult> Engine::sign_sha256(KeyRef key, Sha256Digest digest,
                                           base::Deadline deadline) {
    std::array<std::byte, block_bytes_max> block;
    const std::size_t size = key->modulus_bytes();
    pad_pkcs1_sha256(digest, std::span{block}.first(size));
    base::WaitQueue finished{"offload: signature"};
    SignRequest request{
        [](SignRequest& done) noexcept { static_cast<base::WaitQueue*>(done.context)->wake_one(); },
        &finished};
    while (submit(request, key, std::span{block}.first(size)) == Submit::full) {
        const base::Wake why = co_await room_.wait(loop_, deadline);
        if (why == base::Wake::event) continue;
        room_.wake_one(); // in case the room was ours
        co_return std::unexpected(why == base::Wake::cancelled ? SignError::cancelled
                                                               : SignError::overloaded);
    }
    while (!request.done()) {
        const base::Wake why = co_await finished.wait(loop_, deadline);
        if (why == base::Wake::event || request.done()) continue;
        co_return std::unexpected(why == base::Wake::cancelled ? SignError::cancelled
                                                               : SignError::timed_out);
    }
    co_return request.result();
}

/// Gives the result to whoever waits; the slot is free afterwards.
void Engine::tell(std::uint32_t index, SignResult&& result) {
    SignRequest* request = slots_[index].request;
    --waiting_count_;
    ++finished_count_;
    release(index);
    request->engine_ = nullptr;
    request->result_ = std::move(result);
    request->finished_ = true;
    request->done_(*request);
}

void Engine::finish(std::uint32_t index, std::size_t rank, std::span<const std::byte> signature) {
    const base::Duration waited = loop_.now() - slots_[index].submitted;
    ++counters_.completed;
    if (rank > 0) ++counters_.fallbacks;
    counters_.wait_us_sum += static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(waited).count());
    Signature made;
    made.size = signature.size();
    std::memcpy(made.bytes.data(), signature.data(), signature.size());
    tell(index, SignResult{std::move(made)});
}

void Engine::fail(std::uint32_t index) {
    ++counters_.failed;
    tell(index, std::unexpected(SignError::failed));
}

// --- Handing over

/// Whether a request may go to this backend although a better one only needs time.
bool Engine::may_overflow(const Slot& slot, std::size_t rank) const noexcept {
    if (queue_.count <= options_.high_water && loop_.now() - slot.submitted < overflow_wait)
        return false;
    return !ranks_[rank].backend->traits().software || slot.key->bits() <= overflow_key_bits_max;
}

/// Finds a backend for a queued request. False when it has to wait.
bool Engine::hand_over(std::uint32_t index) {
    Slot& slot = slots_[index];
    bool better_is_full = false;
    for (std::size_t rank = slot.rank_min; rank < ranks_.size(); ++rank) {
        Ranked& ranked = ranks_[rank];
        if (better_is_full && !may_overflow(slot, rank)) return false;
        if (ranked.full) {
            better_is_full = true;
            continue;
        }
        const bool last = rank + 1 == ranks_.size();
        if (!last && !ranked.health.admits()) continue;
        const Operation operation{.token = std::uint64_t{slot.generation} << 32 | index,
                                  .key = slot.key,
                                  .block = std::span{slot.block}.first(slot.key->modulus_bytes())};
        switch (ranked.backend->submit(operation)) {
        case Taken::yes:
            leave(queue_, index);
            slot.where = Where::running;
            slot.rank = static_cast<std::uint8_t>(rank);
            slot.handed_over = loop_.now();
            join(ranked.running, index);
            ++ranked.batch;
            return true;
        case Taken::full:
            ++counters_.ring_full;
            ranked.full = better_is_full = true;
            break;
        case Taken::unsupported:
            if (!last || better_is_full) break;
            leave(queue_, index);
            fail(index);
            return true;
        }
    }
    return false;
}

void Engine::dispatch() {
    for (Ranked& ranked : ranks_) {
        ranked.full = false;
        ranked.batch = 0;
    }
    std::size_t waiting = 0;
    for (std::uint32_t index = queue_.first; index != nowhere && waiting < dispatch_scan_max;) {
        const std::uint32_t next = slots_[index].next;
        if (!hand_over(index)) ++waiting;
        index = next;
    }
    for (Ranked& ranked : ranks_) {
        ranked.backend->flush(loop_.now());
        if (ranked.batch == 0) continue;
        ++counters_.batches;
        counters_.batched += ranked.batch;
    }
}

// --- Taking back

std::size_t Engine::poll_backends(std::size_t budget, bool woken_only) {
    if (polling_) return 0;
    const base::InRoom in{base::Room::tls};
    polling_ = true;
    finished_count_ = 0;
    for (std::size_t rank = 0; rank < ranks_.size(); ++rank) {
        Backend& backend = *ranks_[rank].backend;
        if (backend.in_flight() == 0 || (woken_only && backend.traits().must_poll)) continue;
        Sink sink{*this, rank};
        static_cast<void>(backend.poll(loop_.now(), budget, sink));
    }
    if (queue_.count != 0) dispatch();
    polling_ = false;
    arm();
    return finished_count_;
}

std::size_t Engine::poll(std::size_t budget) {
    return poll_backends(budget, false);
}

bool Engine::drain() {
    if (!pending()) return false;
    // What must be polled is polled at the turn's end; twice a turn would be twice the work in it.
    return poll_backends(poll_budget, true) != 0;
}

bool Engine::pending() const noexcept {
    return std::any_of(ranks_.begin(), ranks_.end(), [](const Ranked& ranked) {
        return !ranked.backend->traits().must_poll && ranked.backend->pending();
    });
}

void Engine::completed(std::size_t rank, const Completion& completion) {
    const auto index = static_cast<std::uint32_t>(completion.token);
    Ranked& ranked = ranks_[rank];
    if (index >= slots_.size() || slots_[index].where != Where::running ||
        slots_[index].rank != rank ||
        slots_[index].generation != static_cast<std::uint32_t>(completion.token >> 32)) {
        ++counters_.late; // cancelled, or finished elsewhere since
        return;
    }
    Slot& slot = slots_[index];
    leave(ranked.running, index);
    if (slot.request == nullptr) return known_answer_completed(index, rank, completion);

    Outcome outcome = completion.outcome;
    const std::size_t size = slot.key->modulus_bytes();
    if (outcome == Outcome::signed_unverified) {
        const bool right = verify_block(*slot.key->state().verifier,
                                        std::span{slot.block}.first(size), completion.signature);
        outcome = right ? Outcome::signed_verified : Outcome::wrong;
    }
    switch (outcome) {
    case Outcome::signed_verified:
        CHECK(completion.signature.size() == size);
        ++ranked.done;
        ranked.last_good = loop_.now();
        finish(index, rank, completion.signature);
        apply(rank, ranked.health.on_good());
        return;
    case Outcome::wrong:
        ++counters_.verify_failures;
        redo(index, rank);
        apply(rank, ranked.health.on_wrong(loop_.now()));
        return;
    case Outcome::failed:
    case Outcome::signed_unverified:
        ++counters_.device_errors;
        redo(index, rank);
        apply(rank, ranked.health.on_error(loop_.now()));
        return;
    }
}

/// Puts a request that a backend has failed in front of the queue, for the next one.
/// \pre  the slot is in no list
void Engine::redo(std::uint32_t index, std::size_t failed_rank) {
    Slot& slot = slots_[index];
    ++slot.generation;
    slot.where = Where::queued;
    if (failed_rank + 1 == ranks_.size()) return fail(index);
    slot.rank_min = static_cast<std::uint8_t>(failed_rank + 1);
    join(queue_, index, true);
    loop_.at_turn_end(*this);
}

// --- Health

void Engine::apply(std::size_t rank, Health::Verdict verdict) {
    if (ranks_[rank].backend->traits().software || verdict != Health::Verdict::down) return;
    ++counters_.downs;
    List& running = ranks_[rank].running;
    while (running.last != nowhere) { // newest first: each goes to the queue's front
        const std::uint32_t index = running.last;
        leave(running, index);
        if (slots_[index].request == nullptr) {
            release(index);
            continue;
        }
        ++counters_.lost;
        redo(index, rank);
    }
    arm();
}

void Engine::known_answer_completed(std::uint32_t index, std::size_t rank,
                                    const Completion& completion) {
    release(index);
    const bool made = completion.outcome == Outcome::signed_verified ||
                      completion.outcome == Outcome::signed_unverified;
    const bool right = made && std::ranges::equal(completion.signature, known_->answer);
    if (ranks_[rank].health.probe_ended(loop_.now(), right) == Health::Verdict::recovered)
        ++counters_.readmissions;
}

void Engine::probe(std::size_t rank) {
    Ranked& ranked = ranks_[rank];
    const std::uint32_t index = ranked.backend->revive() ? take_slot() : nowhere;
    if (index == nowhere) {
        static_cast<void>(ranked.health.probe_ended(loop_.now(), false));
        return;
    }
    Slot& slot = slots_[index];
    slot.key = known_->key;
    slot.submitted = slot.handed_over = loop_.now();
    const Operation operation{.token = std::uint64_t{slot.generation} << 32 | index,
                              .key = known_->key,
                              .block = known_->block};
    if (ranked.backend->submit(operation) != Taken::yes) {
        release(index);
        static_cast<void>(ranked.health.probe_ended(loop_.now(), false));
        return;
    }
    ranked.backend->flush(loop_.now());
    ranked.health.probe_started();
    slot.where = Where::running;
    slot.rank = static_cast<std::uint8_t>(rank);
    join(ranked.running, index);
}

void Engine::watch_one(std::size_t rank) {
    Ranked& ranked = ranks_[rank];
    const base::Duration limit = ranked.backend->traits().stuck_after;
    const base::TimePoint now = loop_.now();
    while (ranked.running.first != nowhere) {
        const std::uint32_t index = ranked.running.first;
        Slot& slot = slots_[index];
        if (now - slot.handed_over <= limit) break;
        const bool silent = ranked.last_good < slot.handed_over;
        leave(ranked.running, index);
        if (slot.request == nullptr) {
            release(index);
            static_cast<void>(ranked.health.probe_ended(now, false));
            continue;
        }
        ++counters_.lost;
        redo(index, rank);
        apply(rank, ranked.health.on_stuck(now, silent));
    }
    if (ranked.health.probe_due(now)) probe(rank);
}

void Engine::watch() {
    const bool heartbeat = loop_.now() >= next_heartbeat_;
    if (heartbeat) next_heartbeat_ = loop_.now() + heartbeat_interval;
    for (std::size_t rank = 0; rank + 1 < ranks_.size(); ++rank) {
        if (heartbeat && ranks_[rank].health.state() != BackendState::down) {
            const bool alive = ranks_[rank].backend->heartbeat();
            apply(rank, ranks_[rank].health.on_heartbeat(loop_.now(), alive));
        }
        watch_one(rank);
    }
    // Late completions are taken back, also from a backend that nobody polls any more, and who has waited long enough goes to the next backend.
    static_cast<void>(poll_backends(poll_budget, false));
}

void Engine::WatchTimer::fire(base::Timer& timer) noexcept {
    static_cast<WatchTimer&>(timer).engine.watch();
}

/// Sees to it that the loop comes back to us when it must.
void Engine::arm() {
    bool must_poll = false;
    bool under_way = queue_.count != 0;
    bool down = false;
    for (const Ranked& ranked : ranks_) {
        must_poll |= ranked.running.count != 0 && ranked.backend->traits().must_poll;
        under_way |= ranked.backend->in_flight() != 0;
        down |= ranked.health.state() == BackendState::down;
    }
    // A device with a full ring is asked again each turn. Workers wake us when they have room.
    must_poll |= queue_.count != 0 && ranks_.front().backend->traits().must_poll;
    if (must_poll) loop_.at_turn_end(*this);
    // Software has no device that could die: nothing to watch when it is all there is.
    if (ranks_.size() == 1) return;
    const base::TimePoint now = loop_.now();
    base::TimePoint due = next_heartbeat_;
    if (down) due = std::min(due, now + down_interval);
    if (under_way) due = std::min(due, now + watch_interval);
    if (watch_timer_.armed() && watch_due_ <= due) return;
    watch_due_ = due;
    loop_.arm(watch_timer_, due);
}

BackendReport Engine::report(std::size_t backend) const noexcept {
    const Ranked& ranked = ranks_[backend];
    return {.name = ranked.backend->traits().name,
            .state = ranked.health.state(),
            .in_flight = ranked.running.count,
            .done = ranked.done,
            .errors = ranked.health.errors(),
            .strikes = ranked.health.strikes()};
}

} // namespace tls_offload::offload
