#include "queue/index.h"

#include "dataplane/base/check.h"
#include "queue/envelope.h"
#include "queue/limits.h"
#include "queue/seeded_defect.h"

#include <algorithm>
#include <bit>
#include <string>
#include <utility>

namespace queue {
namespace {

[[nodiscard]] std::uint32_t seconds(base::WallTime time) noexcept {
    const auto count = time.time_since_epoch().count() / 1000;
    return static_cast<std::uint32_t>(
        std::clamp<std::int64_t>(count, 0, std::numeric_limits<std::uint32_t>::max()));
}

/// Ids count up: a multiplication spreads them over the table.
[[nodiscard]] std::uint32_t hash_of(MessageId id) noexcept {
    return static_cast<std::uint32_t>((id.value * 0x9E3779B97F4A7C15ULL) >> 32);
}

} // namespace

MessageIndex::MessageIndex() : errors_(error_texts_max) {
    add_bucket();
}

std::uint32_t MessageIndex::bucket_of(MessageId id) const noexcept {
    const std::uint32_t hash = hash_of(id);
    const std::uint32_t all = std::bit_ceil(bucket_count_) - 1;
    const std::uint32_t number = hash & all;
    return number < bucket_count_ ? number : hash & (all >> 1); // not split yet
}

void MessageIndex::add_bucket() {
    const std::uint32_t added = bucket_count_;
    if (added % block_buckets == 0) {
        buckets_.push_back(std::make_unique_for_overwrite<EntryRef[]>(block_buckets));
        std::fill_n(buckets_.back().get(), block_buckets, no_entry);
    }
    ++bucket_count_;
    if (added == 0) return;
    const std::uint32_t split = added & (std::bit_floor(added) - 1);
    EntryRef ref = std::exchange(bucket(split), no_entry);
    while (ref != no_entry) {
        Entry& entry = (*this)[ref];
        const EntryRef next = entry.next;
        EntryRef& first = bucket(bucket_of(entry.id));
        entry.next = std::exchange(first, ref);
        ref = next;
    }
}

EntryRef MessageIndex::insert(MessageId id) {
    CHECK(id.value != 0);
    DCHECK(find(id) == no_entry);
    EntryRef ref = first_free_;
    if (ref != no_entry) {
        first_free_ = (*this)[ref].next;
    } else {
        ref = slot_count_;
        CHECK(ref != no_entry);
        if (ref % block_entries == 0) blocks_.push_back(std::make_unique<Entry[]>(block_entries));
        ++slot_count_;
    }
    if (size_ >= bucket_count_) add_bucket();
    ++size_;
    Entry& entry = (*this)[ref];
    entry.id = id;
    EntryRef& first = bucket(bucket_of(id));
    entry.next = std::exchange(first, ref);
    return ref;
}

EntryRef MessageIndex::find(MessageId id) const noexcept {
    for (EntryRef ref = bucket(bucket_of(id)); ref != no_entry; ref = (*this)[ref].next) {
        if ((*this)[ref].id == id) return ref;
    }
    return no_entry;
}

void MessageIndex::erase(EntryRef ref) noexcept {
    Entry& entry = (*this)[ref];
    CHECK(entry.id.value != 0);
    EntryRef* link = &bucket(bucket_of(entry.id));
    while (*link != ref)
        link = &(*this)[*link].next;
    *link = entry.next;
    --size_;
    for (const TextId text : {entry.domain, entry.tenant, entry.account, entry.source})
        texts_.drop(text);
    errors_.drop(entry.error);
    if (entry.extra != Entry::none) {
        EntryExtra& extra = *extras_[entry.extra];
        for (const TextId domain : extra.domains)
            texts_.drop(domain);
        extra = {};
        free_extras_.push_back(entry.extra);
    }
    entry = Entry{};
    if (SEEDED_DEFECT(forget_place)) return;
    entry.next = std::exchange(first_free_, ref);
}

EntryExtra& MessageIndex::extra_of(Entry& entry) {
    if (entry.extra != Entry::none) return *extras_[entry.extra];
    if (free_extras_.empty()) {
        free_extras_.push_back(static_cast<std::uint32_t>(extras_.size()));
        extras_.push_back(std::make_unique<EntryExtra>());
    }
    entry.extra = free_extras_.back();
    free_extras_.pop_back();
    return *extras_[entry.extra];
}

TextId MessageIndex::take_domain(std::string_view domain) {
    folded_.assign(domain);
    for (char& c : folded_) {
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
    }
    return texts_.take(folded_);
}

void MessageIndex::describe(EntryRef ref, const Envelope& envelope) {
    Entry& entry = (*this)[ref];
    CHECK(envelope.recipient_count() > 0);
    entry.arrival_s = seconds(envelope.arrival);
    entry.expiry_s = seconds(envelope.expiry);
    entry.sender_hash = text_hash(envelope.sender());
    entry.recipient_hash = text_hash(envelope.recipient(0).address);
    entry.tenant = texts_.take(envelope.tenant());
    entry.account = texts_.take(envelope.account());
    entry.source = texts_.take(envelope.source());
    if (envelope.delay_notified) entry.flags |= Entry::delay_notified;
    entry.domain = take_domain(envelope.recipient_domain(0));
    if (envelope.recipient_count() == 1) return;
    EntryExtra& extra = extra_of(entry);
    extra.status.assign(envelope.recipient_count(), RecipientStatus{});
    extra.domains.reserve(envelope.recipient_count());
    for (std::size_t i = 0; i < envelope.recipient_count(); ++i) {
        extra.domains.push_back(take_domain(envelope.recipient_domain(i)));
    }
}

void MessageIndex::set_recipients(EntryRef ref, std::span<const TextId> domains) {
    CHECK(!domains.empty());
    Entry& entry = (*this)[ref];
    for (const TextId domain : domains)
        texts_.hold(domain);
    texts_.hold(domains[0]);
    texts_.drop(std::exchange(entry.domain, domains[0]));
    if (domains.size() == 1) {
        texts_.drop(domains[0]);
        return;
    }
    EntryExtra& extra = extra_of(entry);
    extra.status.assign(domains.size(), RecipientStatus{});
    extra.domains.assign(domains.begin(), domains.end());
}

void MessageIndex::set_chunks(EntryRef ref, std::span<const Chunk> chunks) {
    if (chunks.empty()) return;
    extra_of((*this)[ref]).chunks.assign(chunks.begin(), chunks.end());
}

void MessageIndex::set_status(EntryRef ref, std::span<const RecipientStatus> status) {
    Entry& entry = (*this)[ref];
    CHECK(status.size() == this->status(entry).size());
    if (status.size() == 1) {
        entry.recipient = status[0];
        return;
    }
    std::ranges::copy(status, extras_[entry.extra]->status.begin());
    choose_domain(entry);
}

void MessageIndex::choose_domain(Entry& entry) noexcept {
    const EntryExtra& extra = *extras_[entry.extra];
    for (std::size_t i = 0; i < extra.status.size(); ++i) {
        if (extra.status[i].state != RecipientState::pending) continue;
        texts_.hold(extra.domains[i]);
        texts_.drop(std::exchange(entry.domain, extra.domains[i]));
        return;
    }
}

void MessageIndex::set_error(EntryRef ref, std::string_view error) {
    Entry& entry = (*this)[ref];
    if (errors_.text(entry.error) == error) return;
    TextId taken = errors_.take(error);
    // Peers like to number their refusals. What cannot be kept whole is kept by its code, of which
    // there are few; the status record has all of it.
    if (taken == 0) taken = errors_.take(error.substr(0, error_code_bytes));
    errors_.drop(std::exchange(entry.error, taken));
}

std::span<const RecipientStatus> MessageIndex::status(const Entry& entry) const noexcept {
    if (entry.extra == Entry::none || extras_[entry.extra]->status.empty())
        return {&entry.recipient, 1};
    return extras_[entry.extra]->status;
}

std::span<const Chunk> MessageIndex::chunks(const Entry& entry) const noexcept {
    if (entry.extra == Entry::none) return {};
    return extras_[entry.extra]->chunks;
}

std::span<Chunk> MessageIndex::chunks(Entry& entry) noexcept {
    if (entry.extra == Entry::none) return {};
    return extras_[entry.extra]->chunks;
}

std::span<const TextId> MessageIndex::domains(const Entry& entry) const noexcept {
    if (entry.extra == Entry::none || extras_[entry.extra]->domains.empty())
        return {&entry.domain, 1};
    return extras_[entry.extra]->domains;
}

std::size_t MessageIndex::pending_count(const Entry& entry) const noexcept {
    return static_cast<std::size_t>(
        std::ranges::count(status(entry), RecipientState::pending, &RecipientStatus::state));
}

std::size_t MessageIndex::memory_bytes() const noexcept {
    return blocks_.size() * block_entries * sizeof(Entry) +
           buckets_.size() * block_buckets * sizeof(EntryRef);
}

} // namespace queue
