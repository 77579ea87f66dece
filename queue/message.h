// message.h: one accepted message as the shard that owns it sees it.
//
// Scope      Identity, envelope, what has become of each recipient, and the content while it is in
//            memory: the message while somebody works on it. In between, entry.h is all that is kept.
//            Only MessageQueue changes what is durable; delivery changes `status` through it.
// Owns       Its envelope and its references to slabs. Messages are recycled by their queue.
// Threading  Bound to one shard.
#pragma once

#include "dataplane/base/ref.h"
#include "dataplane/base/slab.h"
#include "queue/entry.h"
#include "queue/envelope.h"
#include "queue/ticket.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace queue {

class QueueCore;

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

    /// Its slot of the index while it is queued, otherwise no_entry.
    [[nodiscard]] EntryRef entry() const noexcept { return entry_; }

    /// Back to the queue's free list; called by the last Ref.
    void retire() noexcept;

private:
    friend class QueueCore;
    friend class Draft;
    friend class ContentReader;

    enum class Phase : std::uint8_t {
        blank,      // unused, or made outside of a queue
        draft,      // content is coming in
        committing, // its record is in a batch that is not durable yet
        queued,     // stands for entry_
        done,       // settled or refused
    };

    QueueCore* owner_ = nullptr; // null for one made outside of a queue
    Phase phase_ = Phase::blank;
    bool submitted_ = false; // a draft's record may have reached the disk
    EntryRef entry_ = no_entry;
    std::uint32_t number_ = 0;        // among the queue's messages
    std::uint32_t payload_bytes_ = 0; // of the MSG or MSG_COMMIT record
    std::uint32_t content_at_ = 0;    // where in the payload the content (or the prelude) begins
    std::uint32_t prelude_bytes_ = 0;
    std::vector<Chunk> chunks_;          // of a draft
    std::uint64_t chunk_body_bytes_ = 0; // of a draft's body, in chunks
    Ticket ticket_;
    base::Ref<Message> kept_; // to itself: nobody else needs it now, but its turn comes soon
    Message* next_free_ = nullptr;
};
using MessageRef = base::Ref<Message>;

} // namespace queue
