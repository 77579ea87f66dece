// key_set.h: which keys sign a message.
//
// Scope      The [[dkim]] tables as they were configured (KeyTable), the keys they name read from their
//            files (load_key_set), and the choice: by the author's domain, then by the domains above it
//            that sign for their subdomains, else the tenant's fallback, else nobody; and in addition
//            whoever signs everything.
// Owns       Identities and options; keys are shared with the cache and with older sets.
// Threading  load_key_set() reads files: never on a shard. A KeySet is immutable and shared by all shards;
//            the count of its references is atomic because they let go of it at different times.
// Failure    Every table that cannot be loaded, with the file and the remedy. Nothing is loaded in part.
#pragma once

#include "dataplane/message/dkim/canonical.h"
#include "dataplane/message/dkim/key.h"
#include "dataplane/message/dkim/key_cache.h"
#include "dataplane/message/dkim/limits.h"

#include <array>
#include <chrono>
#include <cstdint>
#include <expected>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace dataplane::message::dkim {

/// When a table's keys sign.
enum class Scope : std::uint8_t {
    author,   // mail From one of its domains
    fallback, // mail that no key of the author's domain signs
    always,   // all mail, in addition
};
enum class KeyKind : std::uint8_t { any, rsa, ed25519 };
/// What becomes of a message that should be signed and could not be.
enum class OnFailure : std::uint8_t { defer, send_unsigned };

/// One [[dkim]] table.
struct KeyTable {
    std::vector<std::string> domains; // "example.com", ".example.com" (its subdomains, too), or "*"
    std::string selector;
    std::string key_file; // %d: the domain, %s: the selector
    Scope scope = Scope::author;
    std::string tenant; // only its mail; empty: anyone's
    KeyKind kind = KeyKind::any;
    Canonical header_form = Canonical::relaxed, body_form = Canonical::relaxed;
    std::vector<std::string> headers;     // to sign, in this order
    std::vector<std::string> oversign;    // of them
    std::chrono::seconds expire_after{0}; // 0: never
    std::string identity;                 // i=; "%d" is the domain; empty: left out
    OnFailure on_failure = OnFailure::defer;
    bool operator==(const KeyTable&) const = default;
};

struct HeaderRule {
    std::string name, lower_name;
    bool oversign = false;
};

/// What the keys of one table have in common.
struct SigningOptions {
    Canonical header_form = Canonical::relaxed, body_form = Canonical::relaxed;
    std::vector<HeaderRule> headers; // From is among them
    std::chrono::seconds expire_after{0};
    std::string tenant;
    OnFailure on_failure = OnFailure::defer;
    std::array<std::uint8_t, 256> first_of{}; // rule + 1 by bucket(name); 0: none
    std::vector<std::uint8_t> next_of;        // rule + 1, of the same bucket

    [[nodiscard]] static std::size_t bucket(std::string_view name) noexcept;
    /// The rule for a field of this name (any case), or headers.size().
    [[nodiscard]] std::size_t rule_of(std::string_view name) const noexcept;
};

/// One key under one name.
struct Identity {
    std::string domain, selector;
    std::string agent; // i=, or empty
    std::shared_ptr<const SigningKey> key;
    std::shared_ptr<const SigningOptions> options; // shared with the identities of its table
    bool subdomains = false;
    std::size_t table = 0; // index of its [[dkim]] table
    std::string key_file;
};

class Choice { // of at most signatures_max identities, without an allocation
public:
    void add(const Identity& identity) noexcept;
    void clear() noexcept { count_ = 0; }
    [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
    [[nodiscard]] std::span<const Identity* const> view() const noexcept {
        return {chosen_.data(), count_};
    }

private:
    std::array<const Identity*, signatures_max> chosen_{};
    std::size_t count_ = 0;
};

class KeySet {
public:
    /// Whose keys sign a message From `author_domain` (lower case; empty: unknown) of `tenant`.
    /// The identities live as long as this set.
    void choose(std::string_view author_domain, std::string_view tenant, Choice& choice) const;
    [[nodiscard]] bool empty() const noexcept { return identities_.empty(); }
    [[nodiscard]] std::span<const Identity> identities() const noexcept { return identities_; }

private:
    friend struct KeySetLoader;
    struct TextHash {
        using is_transparent = void;
        std::size_t operator()(std::string_view text) const noexcept {
            return std::hash<std::string_view>{}(text);
        }
    };
    std::vector<Identity> identities_;
    // By domain, as indices: those with Scope::author.
    std::unordered_map<std::string, std::vector<std::uint32_t>, TextHash, std::equal_to<>>
        by_domain_;
    std::vector<std::uint32_t> fallbacks_, always_;
};

struct LoadError {
    std::size_t table = 0;
    std::string text; // "FILE reason; remedy"
};
struct LoadedKeys {
    std::shared_ptr<const KeySet> keys;
    std::vector<std::string> warnings; // files that others may read
};

[[nodiscard]] std::expected<LoadedKeys, std::vector<LoadError>>
load_key_set(std::span<const KeyTable> tables, KeyCache& cache);

} // namespace dataplane::message::dkim
