#include "queue/text_table.h"

#include "dataplane/base/check.h"
#include "dataplane/base/slab.h"
#include "queue/disk/crc32c.h"

#include <cstring>
#include <utility>

namespace queue {
namespace {

constexpr std::size_t buckets_at_first = 256;

} // namespace

std::uint32_t text_hash(std::string_view text) noexcept {
    return crc32c(0x9E3779B9U, dataplane::base::as_bytes(text));
}

TextTable::TextTable(std::size_t count_max)
    : count_max_(count_max), texts_(1), buckets_(buckets_at_first) {}

std::uint32_t TextTable::bucket_of(std::uint32_t hash) const noexcept {
    return hash & static_cast<std::uint32_t>(buckets_.size() - 1);
}

TextId TextTable::find(std::string_view text) const noexcept {
    if (text.empty()) return 0;
    const std::uint32_t hash = text_hash(text);
    for (TextId id = buckets_[bucket_of(hash)]; id != 0; id = texts_[id].next) {
        if (texts_[id].hash == hash && this->text(id) == text) return id;
    }
    return 0;
}

std::string_view TextTable::text(TextId id) const noexcept {
    DCHECK(id < texts_.size());
    return {texts_[id].bytes.get(), texts_[id].length};
}

TextId TextTable::take(std::string_view text) {
    if (text.empty()) return 0;
    if (const TextId known = find(text); known != 0) {
        if (texts_[known].references++ == 0) ++size_;
        return known;
    }
    if (size_ >= count_max_) return 0;
    if (size_ >= buckets_.size()) grow();
    TextId id = first_free_;
    if (id != 0) {
        first_free_ = texts_[id].next;
    } else {
        id = static_cast<TextId>(texts_.size());
        texts_.emplace_back();
    }
    Text& entry = texts_[id];
    entry.bytes = std::make_unique_for_overwrite<char[]>(text.size());
    std::memcpy(entry.bytes.get(), text.data(), text.size());
    entry.length = static_cast<std::uint32_t>(text.size());
    entry.hash = text_hash(text);
    entry.references = 1;
    TextId& first = buckets_[bucket_of(entry.hash)];
    entry.next = first;
    first = id;
    ++size_;
    return id;
}

void TextTable::hold(TextId id) noexcept {
    if (id == 0) return;
    CHECK(texts_[id].references > 0);
    ++texts_[id].references;
}

void TextTable::drop(TextId id) noexcept {
    if (id == 0) return;
    Text& entry = texts_[id];
    CHECK(entry.references > 0);
    if (--entry.references > 0) return;
    --size_;
    if (entry.idle) return;
    entry.idle = true;
    const TextId oldest = std::exchange(idle_[idle_next_], id);
    idle_next_ = (idle_next_ + 1) % idle_max;
    if (oldest == 0) return;
    texts_[oldest].idle = false;
    if (texts_[oldest].references == 0) free(oldest);
}

void TextTable::free(TextId id) noexcept {
    Text& entry = texts_[id];
    TextId* link = &buckets_[bucket_of(entry.hash)];
    while (*link != id)
        link = &texts_[*link].next;
    *link = entry.next;
    entry.bytes.reset();
    entry.length = 0;
    entry.next = first_free_;
    first_free_ = id;
}

void TextTable::grow() {
    buckets_.assign(buckets_.size() * 2, 0);
    for (TextId id = 1; id < texts_.size(); ++id) {
        Text& entry = texts_[id];
        if (!entry.bytes) continue;
        TextId& first = buckets_[bucket_of(entry.hash)];
        entry.next = first;
        first = id;
    }
}

} // namespace queue
