// message_maker.h: the numbered messages a source sends.
//
// Scope      A header with From, To, Date, Message-ID and our four fields, and a body of printable
//            lines, some of them beginning with dots. The same run, seed and sequence number give
//            the same message, the date excepted.
// Owns       One pool of pseudo-random text; bodies are slices of it behind a line of their own, so
//            that a message costs a copy and a hash.
// Failure    None: the pattern is checked once, at start, by check_pattern().
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dataplane::loadgen {

inline constexpr std::string_view run_field = "X-Millrace-Run";
inline constexpr std::string_view sequence_field = "X-Millrace-Seq";
inline constexpr std::string_view header_field = "X-Millrace-Header"; // digest of the others
inline constexpr std::string_view digest_field = "X-Millrace-Digest"; // of the body

struct SizeRange {
    std::size_t bytes_min = 4096; // evenly spread between the two
    std::size_t bytes_max = 4096;
    double weight = 1;
};
struct WeightedDomain {
    std::string name;
    double weight = 1;
};

struct MessagePattern {
    std::string run = "run"; // one word
    // In addresses, {run} is the run, {seq} the sequence number, {n} the recipient's number within its message,
    // and {domain} a number below domain_count that the sequence number decides. With `domains`
    // it is one of those names, drawn for each recipient (and the first one's for the sender).
    std::string sender = "sender@bench.example";
    std::string recipient = "r{seq}-{n}@d{domain}.bench.example";
    std::size_t recipient_count = 1;
    std::size_t recipient_count_max = 0; // evenly spread up to this; 0: always recipient_count
    std::size_t domain_count = 1;
    std::size_t bytes_min = 4096; // of the whole content, header included
    std::size_t bytes_max = 4096;
    std::vector<SizeRange> sizes = {};        // when not empty, in place of bytes_min and bytes_max
    std::vector<WeightedDomain> domains = {}; // when not empty, in place of domain_count
    std::uint64_t seed = 1;
};

/// What is wrong with a pattern, for a person; empty when nothing is.
[[nodiscard]] std::string check_pattern(const MessagePattern& pattern);

struct Message {
    std::uint64_t sequence = 0;
    std::string sender;
    std::vector<std::string> recipients;
    std::string content; // CRLF lines, not dot-stuffed, ends with CRLF
};

class MessageMaker {
public:
    explicit MessageMaker(MessagePattern pattern);

    /// Fills `message`, reusing its memory. `date` is the Date field's value.
    void make(std::uint64_t sequence, std::string_view date, Message& message) const;
    [[nodiscard]] const MessagePattern& pattern() const noexcept { return pattern_; }

private:
    [[nodiscard]] std::string_view domain_of(std::uint64_t sequence, std::size_t number,
                                             std::string& digits) const;
    [[nodiscard]] std::size_t wanted_bytes(std::uint64_t draw) const noexcept;

    MessagePattern pattern_;
    std::vector<double> size_shares_, domain_shares_; // running sums, the last one 1
    std::string pool_;
    std::vector<std::uint32_t> line_starts_; // in pool_
};

/// Appends `content` to `out` as DATA carries it: dots doubled, the final dot behind (RFC 5321
/// §4.5.2).
void append_dot_stuffed(std::string& out, std::string_view content);

} // namespace dataplane::loadgen
