#include "tls_offload/engine/sim_backend.h"

#include "tls_offload/engine/key_state.h"

#include <algorithm>
#include <cstring>

namespace tls_offload::offload {

SimBackend::SimBackend(SimBackendOptions options)
    : options_(options),
      traits_{.name = options.name, .must_poll = true, .stuck_after = options.stuck_after},
      dice_(options.faults.seed) {}

SimBackend::~SimBackend() = default;

Taken SimBackend::submit(const Operation& operation) {
    if (held_.size() >= options_.ring || dice_.refuses(options_.faults)) {
        ++counts_.refused;
        return Taken::full;
    }
    Held& held = held_.emplace_back();
    held.token = operation.token;
    held.key = operation.key;
    std::memcpy(held.block.data(), operation.block.data(), operation.block.size());
    held.fate = dice_.fate(options_.faults);
    ++counts_.taken;
    return Taken::yes;
}

void SimBackend::flush(base::TimePoint now) {
    for (Held& held : held_) {
        if (!held.staged) continue;
        held.staged = false;
        held.due = now + dice_.delay(options_.faults);
    }
}

std::size_t SimBackend::poll(base::TimePoint now, std::size_t budget, CompletionSink& sink) {
    if (dead_) return 0;
    if (options_.faults.partial) budget = std::min(budget, dice_.part_of(held_.size()));
    std::size_t count = 0;
    std::array<std::byte, block_bytes_max> signature;
    while (count < budget) {
        // The earliest of those that are due: delays are random, so the order is not that of submit().
        auto next = held_.end();
        for (auto each = held_.begin(); each != held_.end(); ++each) {
            if (each->staged || each->fate == SimFate::lost || each->due > now) continue;
            if (next == held_.end() || each->due < next->due) next = each;
        }
        if (next == held_.end()) break;
        const Held held = std::move(*next);
        held_.erase(next);
        ++count;
        ++counts_.completed;
        const std::size_t size = held.key->modulus_bytes();
        RSA* key = local_rsa(*held.key);
        const bool made =
            held.fate != SimFate::failed && key != nullptr &&
            sign_block(*key, std::span{held.block}.first(size), std::span{signature}.first(size));
        if (!made) ++counts_.failed;
        Outcome outcome = options_.verified ? Outcome::signed_verified : Outcome::signed_unverified;
        if (held.fate == SimFate::wrong) {
            ++counts_.wrong;
            signature[size / 2] ^= std::byte{0x10};
            if (options_.verified) outcome = Outcome::wrong;
        }
        sink.completed({.token = held.token,
                        .outcome = made ? outcome : Outcome::failed,
                        .signature = std::span{signature}.first(size)});
    }
    return count;
}

bool SimBackend::revive() {
    if (dead_) return false;
    // A reset: the device forgets what it had.
    counts_.lost += held_.size();
    held_.clear();
    return true;
}

void SimBackend::give_up_the_lost() noexcept {
    for (Held& held : held_) {
        if (held.fate == SimFate::lost) held.fate = SimFate::good;
    }
}

} // namespace tls_offload::offload
