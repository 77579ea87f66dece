#include "queue/index.h"

#include "dataplane/base/check.h"

#include <utility>

namespace queue {
namespace {

constexpr std::size_t slots_at_first = 4096;

} // namespace

MessageIndex::MessageIndex() : slots_(slots_at_first) {}

std::size_t MessageIndex::home_of(MessageId id) const noexcept {
    // Ids count up: a multiplication spreads them over the table.
    return static_cast<std::size_t>((id.value * 0x9E3779B97F4A7C15ULL) >> 20) & (slots_.size() - 1);
}

void MessageIndex::place(MessageRef message) noexcept {
    const std::size_t mask = slots_.size() - 1;
    std::size_t slot = home_of(message->id);
    while (slots_[slot]) {
        DCHECK(slots_[slot]->id != message->id);
        slot = (slot + 1) & mask;
    }
    slots_[slot] = std::move(message);
}

void MessageIndex::grow() {
    std::vector<MessageRef> old(slots_.size() * 2);
    old.swap(slots_);
    ++generation_;
    for (MessageRef& message : old) {
        if (message) place(std::move(message));
    }
}

void MessageIndex::insert(MessageRef message) {
    if ((size_ + 1) * 4 > slots_.size() * 3) grow();
    place(std::move(message));
    ++size_;
}

Message* MessageIndex::find(MessageId id) const noexcept {
    const std::size_t mask = slots_.size() - 1;
    for (std::size_t slot = home_of(id); slots_[slot]; slot = (slot + 1) & mask) {
        if (slots_[slot]->id == id) return slots_[slot].get();
    }
    return nullptr;
}

void MessageIndex::erase(MessageId id) noexcept {
    const std::size_t mask = slots_.size() - 1;
    std::size_t hole = home_of(id);
    while (slots_[hole] && slots_[hole]->id != id)
        hole = (hole + 1) & mask;
    CHECK(slots_[hole]);
    const MessageRef erased =
        std::exchange(slots_[hole], MessageRef{}); // released when all is in order
    --size_;
    // Move what probed past the hole back into it, so that no tombstones are needed.
    for (std::size_t slot = (hole + 1) & mask; slots_[slot]; slot = (slot + 1) & mask) {
        const std::size_t home = home_of(slots_[slot]->id);
        if (((slot - home) & mask) < ((slot - hole) & mask)) continue;
        slots_[hole] = std::exchange(slots_[slot], MessageRef{});
        hole = slot;
    }
}

void MessageIndex::clear() noexcept {
    for (MessageRef& message : slots_)
        message.reset();
    size_ = 0;
}

} // namespace queue
