// key_cache.h: key files, read once for as long as they do not change.
//
// Scope      From a path to a key. A reload of ten thousand keys of which one is new parses one.
// Owns       The keys of the last two rounds; begin_round() starts one.
// Threading  One thread at a time; blocks on file operations.
// Failure    A sentence: the path, the reason, the remedy.
#pragma once

#include "dataplane/message/dkim/key.h"

#include <cstdint>
#include <expected>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace dataplane::message::dkim {

struct KeyFile {
    std::shared_ptr<const SigningKey> key;
    bool exposed = false; // others than its owner may read it
};

class KeyCache {
public:
    [[nodiscard]] std::expected<KeyFile, std::string> get(const std::string& path);
    /// Forgets what the last round did not ask for.
    void begin_round();

private:
    struct Stamp {
        std::uint64_t device = 0, inode = 0, bytes = 0, mode = 0;
        std::int64_t changed_s = 0, changed_ns = 0, written_s = 0, written_ns = 0;
        bool operator==(const Stamp&) const = default;
    };
    struct Entry {
        Stamp stamp;
        KeyFile file;
        std::uint64_t round = 0;
    };
    std::unordered_map<std::string, Entry> entries_;
    std::uint64_t round_ = 0;
};

/// `pattern` with %d and %s filled in.
[[nodiscard]] std::string key_path(std::string_view pattern, std::string_view domain,
                                   std::string_view selector);

/// The domains for which a file of this pattern is there, sorted; an error is a sentence.
/// \pre  there is a %d in the pattern
[[nodiscard]] std::expected<std::vector<std::string>, std::string>
domains_of(const std::string& pattern, std::string_view selector);

} // namespace dataplane::message::dkim
