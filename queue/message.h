// message.h: one accepted message as the shard that owns it sees it.
//
// Scope      Identity, envelope, what has become of each recipient, and the content while it is in
//            memory. Only MessageQueue changes what is durable; delivery changes `status` through it.
// Owns       Its envelope and its references to slabs. Messages are recycled by their queue.
// Threading  Bound to one shard.
#pragma once

#include "dataplane/base/ref.h"
#include "dataplane/base/slab.h"
#include "dataplane/base/timer_wheel.h"
#include "queue/envelope.h"
#include "queue/ticket.h"

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace queue {

class QueueCore;

/// Never reused: shard (8 bits), boot epoch (16), counter (40). Prints as 16 hex digits.
struct MessageId {
    std::uint64_t value = 0;

    static constexpr MessageId make(unsigned shard, unsigned epoch,
                                    std::uint64_t counter) noexcept {
        return {std::uint64_t{shard} << 56 | std::uint64_t{epoch} << 40 | counter};
    }
    [[nodiscard]] constexpr unsigned shard() const noexcept {
        return static_cast<unsigned>(value >> 56);
    }
    [[nodiscard]] std::string to_string() const;
    [[nodiscard]] static std::optional<MessageId> parse(std::string_view hex) noexcept;
    auto operator<=>(const MessageId&) const noexcept = default;
};

enum class RecipientState : std::uint8_t {
    pending = 0,
    delivered = 1, // a 2xx came back for it
    bounced = 2,   // refused for good; a DSN is out where one was due
    expired = 3,   // given up at its expiry; a DSN is out where one was due
    removed = 4,   // taken out by an operator
};

struct RecipientStatus {
    RecipientState state = RecipientState::pending;
    std::uint8_t attempts = 0;   // saturates at 255
    std::uint16_t last_code = 0; // last SMTP reply code, or 0 for a network or DNS failure
};

class Message final : public base::RefCounted<Message> {
public:
    MessageId id;
    Envelope envelope;
    std::vector<RecipientStatus> status; // one per recipient of the envelope, same index
    std::uint32_t attempts = 0;          // delivery rounds that ended in defer()
    base::WallTime due{};                // when the next one is, while it is deferred
    std::string last_error;              // of the last attempt, for people; bounded by the writer
    std::uint64_t content_bytes = 0;     // headers and body as they go out, dot-stuffing aside

    /// The whole content when it is in memory, otherwise empty: see ContentReader.
    base::SlabChain content;

    [[nodiscard]] std::size_t pending_count() const noexcept;
    [[nodiscard]] bool settled() const noexcept { return pending_count() == 0; }

    /// Back to the queue's free list; called by the last Ref.
    void retire() noexcept;

private:
    friend class QueueCore;
    friend class Collector;
    friend class Recovery;
    friend class MessageIndex;
    friend class RetryScheduler;
    friend class RecordReader;
    friend class Draft;
    friend class ContentReader;

    enum class Phase : std::uint8_t {
        blank,      // unused, or made outside of a queue
        draft,      // content is coming in
        committing, // its record is in a batch that is not durable yet
        ready,      // waits to be given to the sink
        handed,     // in a delivery round
        deferred,   // waits for `due`
        held,       // due or new, but suspended
        done,       // settled or refused
    };
    struct RetryTimer : base::Timer {
        RetryTimer() noexcept;
        Message* message = nullptr;
    };
    // A part of the body that has a record of its own.
    struct Chunk {
        Place place;
        std::uint32_t bytes = 0; // of body, without the record's own
    };

    QueueCore* owner_ = nullptr; // null for one made outside of a queue
    Phase phase_ = Phase::blank;
    bool status_dirty_ = false;       // its status waits to be written
    bool submitted_ = false;          // its record may have reached the disk
    Place place_;                     // of its MSG or MSG_COMMIT record
    std::uint32_t payload_bytes_ = 0; // of that record
    std::uint32_t content_at_ = 0;    // where in the payload the content (or the prelude) begins
    std::uint32_t prelude_bytes_ = 0;
    std::vector<Chunk> chunks_;
    std::uint64_t chunk_body_bytes_ = 0; // of the body, in chunks
    RetryTimer retry_;
    Ticket ticket_;
    Message* next_ready_ = nullptr;
    Message* next_free_ = nullptr;
};
using MessageRef = base::Ref<Message>;

} // namespace queue
