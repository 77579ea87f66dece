// ticket_keys.h: the keys of session tickets, the same on every shard, and their rotation.
//
// Scope      A ticket holds the session of a client, sealed with a key that only this process has
//            (RFC 5077 §4). TicketKeys is one state of the ring, which never changes; the rotation
//            makes the next one. The keys are never on disk: after a restart everybody shakes hands
//            in full.
// Owns       Key material, wiped when the last holder lets go.
// Threading  TicketKeys: immutable, any thread. TicketKeyRing: one thread.
//
// The ring holds the next key before anybody uses it, so that a ticket which one shard has sealed
// just after a rotation opens on a shard that has not heard of the rotation yet.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace tls_offload {

struct TicketKey {
    std::array<unsigned char, 16> name{}; // stands in the ticket, in the clear
    std::array<unsigned char, 32> cipher{};
    std::array<unsigned char, 32> mac{};
};

class TicketKeys {
public:
    explicit TicketKeys(std::vector<TicketKey> keys) noexcept : keys_(std::move(keys)) {}
    ~TicketKeys();
    TicketKeys(const TicketKeys&) = delete;
    TicketKeys& operator=(const TicketKeys&) = delete;

    /// What new tickets are sealed with.
    [[nodiscard]] const TicketKey& current() const noexcept { return keys_[1]; }
    /// The key of this name, or nullptr: a ticket that is too old, or was never ours.
    [[nodiscard]] const TicketKey* find(std::span<const unsigned char, 16> name) const noexcept;
    /// Whether a ticket under this key is to be replaced by one under current().
    [[nodiscard]] bool outdated(const TicketKey& key) const noexcept {
        return &key != &keys_[0] && &key != &keys_[1];
    }
    [[nodiscard]] std::span<const TicketKey> all() const noexcept { return keys_; }

private:
    std::vector<TicketKey> keys_; // next, current, then previous ones, youngest first
};
using TicketKeysPtr = std::shared_ptr<const TicketKeys>;

/// Makes the first state of a ring; std::runtime_error when there are no random bytes.
[[nodiscard]] TicketKeysPtr make_ticket_keys();
/// The state after `keys`: its next key is current now, and the oldest beyond `previous_max` gone.
[[nodiscard]] TicketKeysPtr rotated(const TicketKeys& keys, std::size_t previous_max);

} // namespace tls_offload
