// backend.h: what does the private-key operations, seen by one shard.
//
// Scope      The contract that every backend keeps, and that tests/tls_offload/engine/contract_test.cc holds
//            each of them against:
//              - submit() copies the input. Each operation it took ends in exactly one Completion, or never
//                (a lost one, which the engine notices by its age). Order is free.
//              - submit() answers `full` instead of waiting, and `unsupported` for a key it cannot use.
//              - Memory that a device may still write to is the backend's own and outlives the operation.
//              - poll() takes at most `budget` completions and never waits. Nothing completes outside of it.
// Owns       Keys of operations under way, and its side of the device.
// Threading  Bound to one shard: everything is called there.
// Failure    None here: an operation's failure is Outcome::failed.
#pragma once

#include "dataplane/base/clock.h"
#include "tls_offload/engine/limits.h"
#include "tls_offload/engine/private_key.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace tls_offload::offload {

enum class Taken : std::uint8_t { yes, full, unsupported };

struct Operation {
    std::uint64_t token = 0; // comes back in the completion
    KeyRef key;
    std::span<const std::byte> block; // borrowed for submit() only
};

enum class Outcome : std::uint8_t {
    signed_verified, // the backend has verified it, or it is made by OpenSSL, which does
    signed_unverified,
    failed,
    wrong, // the backend has verified it, and it was not right
};

struct Completion {
    std::uint64_t token = 0;
    Outcome outcome = Outcome::failed;
    std::span<const std::byte> signature; // valid during the call
};

class CompletionSink {
public:
    virtual void completed(const Completion& completion) = 0;

protected:
    ~CompletionSink() = default;
};

struct BackendTraits {
    std::string_view name;
    // Nobody wakes the shard when something completes: it must poll while anything is in flight.
    bool must_poll = true;
    // An operation that is older than this is a sign of a dead device; the maximum: never.
    base::Duration stuck_after = base::Duration::max();
    // Runs on the shard itself: takes overflow of small keys only, and cannot be down.
    bool software = false;
};

class Backend {
public:
    virtual ~Backend() = default;
    [[nodiscard]] virtual const BackendTraits& traits() const noexcept = 0;
    [[nodiscard]] virtual Taken submit(const Operation& operation) = 0;
    /// Ends a burst of submit(): whatever was only staged goes to the device now.
    virtual void flush(base::TimePoint now) = 0;
    virtual std::size_t poll(base::TimePoint now, std::size_t budget, CompletionSink& sink) = 0;
    /// Whether poll() would find something, as far as that can be seen without a device's help.
    [[nodiscard]] virtual bool pending() const noexcept = 0;
    /// Operations taken and not completed.
    [[nodiscard]] virtual std::size_t in_flight() const noexcept = 0;
    /// The device's own opinion of its health. Asked about once a second.
    [[nodiscard]] virtual bool heartbeat() { return true; }
    /// Asked of a backend that is down, before it is tried again: false while there is no point.
    [[nodiscard]] virtual bool revive() { return true; }
};

} // namespace tls_offload::offload
