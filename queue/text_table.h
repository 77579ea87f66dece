// text_table.h: texts that many entries share, each kept once under a number.
//
// Scope      Domains, tenants, accounts, sources and errors of the index. Number 0 is the empty text. A
//            text lives as long as somebody holds it; its number is used again afterwards.
// Owns       The texts.
// Threading  Bound to one shard.
// Failure    A full table gives 0: what that means is the caller's to say.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string_view>
#include <vector>

namespace queue {

using TextId = std::uint32_t;

class TextTable {
public:
    explicit TextTable(std::size_t count_max = std::numeric_limits<TextId>::max());

    /// The number of `text`, held once more.
    [[nodiscard]] TextId take(std::string_view text);
    void hold(TextId id) noexcept;
    void drop(TextId id) noexcept;
    /// Without holding it; 0 when it is not known.
    [[nodiscard]] TextId find(std::string_view text) const noexcept;
    /// Valid while somebody holds it.
    [[nodiscard]] std::string_view text(TextId id) const noexcept;
    /// Numbers are below this.
    [[nodiscard]] TextId id_end() const noexcept { return static_cast<TextId>(texts_.size()); }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }

private:
    struct Text {
        std::unique_ptr<char[]> bytes;
        std::uint32_t length = 0;
        std::uint32_t hash = 0;
        std::uint32_t references = 0;
        bool idle = false; // stands in `idle_`
        TextId next = 0;   // in its bucket, or of the free ones: those have no bytes
    };
    // Texts that nobody holds any more stay so long: the next message is often of the same tenant, and
    // for the same domain.
    static constexpr std::size_t idle_max = 256;

    [[nodiscard]] std::uint32_t bucket_of(std::uint32_t hash) const noexcept;
    void grow();
    void free(TextId id) noexcept;

    std::size_t count_max_;
    std::vector<Text> texts_;     // the first is the empty text
    std::vector<TextId> buckets_; // a power of two
    TextId first_free_ = 0;
    std::size_t size_ = 0;                // held ones
    std::array<TextId, idle_max> idle_{}; // a ring; 0: nothing
    std::size_t idle_next_ = 0;
};

/// For filters that must not read the disk; what it finds may be another's, once in four billion.
[[nodiscard]] std::uint32_t text_hash(std::string_view text) noexcept;

} // namespace queue
