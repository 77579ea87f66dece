#include "dataplane/loadgen/message_maker.h"

#include "dataplane/base/slab.h"
#include "dataplane/loadgen/content_check.h"
#include "dataplane/loadgen/digest.h"
#include "dataplane/loadgen/limits.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <random>

namespace dataplane::loadgen {
namespace {

constexpr std::size_t pool_bytes = 1UL << 20;
constexpr std::size_t digest_digits = 16;

void append_number(std::string& text, std::uint64_t number) {
    std::array<char, 20> digits{};
    const auto [end, error] = std::to_chars(digits.data(), digits.data() + digits.size(), number);
    text.append(digits.data(), end);
}

void append_digest(std::string& text, std::uint64_t digest) {
    for (unsigned shift = 64; shift != 0;) {
        shift -= 4;
        text += "0123456789abcdef"[(digest >> shift) & 15];
    }
}

void append_expanded(std::string& text, std::string_view pattern, std::string_view run,
                     std::uint64_t sequence, std::size_t number, std::string_view domain) {
    while (!pattern.empty()) {
        const std::size_t brace = pattern.find('{');
        text.append(pattern.substr(0, brace));
        if (brace == std::string_view::npos) return;
        pattern.remove_prefix(brace);
        const std::size_t end = pattern.find('}');
        const std::string_view name = pattern.substr(0, end + 1);
        if (name == "{run}") text += run;
        if (name == "{seq}") append_number(text, sequence);
        if (name == "{n}") append_number(text, number);
        if (name == "{domain}") text += domain;
        pattern.remove_prefix(name.size());
    }
}

std::string check_address(std::string_view name, std::string_view pattern) {
    const std::string what = std::string(name) + " '" + std::string(pattern) + "' ";
    if (pattern.find('@') == std::string_view::npos) return what + "has no @";
    if (pattern.find_first_of(" <>\r\n\t") != std::string_view::npos)
        return what + "has a space or <>";
    for (std::size_t at = pattern.find('{'); at != std::string_view::npos;
         at = pattern.find('{', at + 1)) {
        const std::string_view rest = pattern.substr(at);
        if (!rest.starts_with("{seq}") && !rest.starts_with("{n}") && !rest.starts_with("{run}") &&
            !rest.starts_with("{domain}")) {
            return what + "knows only {seq}, {n}, {run} and {domain}";
        }
    }
    return {};
}

template <class Weighted>
std::vector<double> running_shares(const std::vector<Weighted>& all) {
    std::vector<double> sums;
    double sum = 0;
    for (const Weighted& one : all)
        sums.push_back(sum += one.weight);
    for (double& share : sums)
        share /= sum;
    return sums;
}

/// Evenly spread over 0 to 1, the same for the same key.
double share_of(std::uint64_t key) noexcept {
    return static_cast<double>(scramble(key) >> 11) * 0x1.0p-53;
}

std::size_t pick(const std::vector<double>& shares, double draw) noexcept {
    const auto found = std::upper_bound(shares.begin(), shares.end(), draw);
    return std::min(static_cast<std::size_t>(found - shares.begin()), shares.size() - 1);
}

std::string check_sizes(std::size_t bytes_min, std::size_t bytes_max) {
    if (bytes_min >= message_bytes_min && bytes_max <= message_bytes_max && bytes_min <= bytes_max)
        return {};
    return "size must lie between " + std::to_string(message_bytes_min) + " and " +
           std::to_string(message_bytes_max);
}

constexpr std::uint64_t domain_salt = 0x646F6D61696E; // so that size and domain are drawn apart

} // namespace

std::string check_pattern(const MessagePattern& pattern) {
    if (pattern.run.empty() || pattern.run.find_first_of(" \r\n\t") != std::string::npos) {
        return "the run's name must be one word";
    }
    if (std::string fault = check_address("sender", pattern.sender); !fault.empty()) return fault;
    if (std::string fault = check_address("recipient", pattern.recipient); !fault.empty())
        return fault;
    const std::size_t most = std::max(pattern.recipient_count, pattern.recipient_count_max);
    if (pattern.recipient_count == 0 || most > recipients_max ||
        (pattern.recipient_count_max != 0 &&
         pattern.recipient_count_max < pattern.recipient_count)) {
        return "recipients must be 1 to " + std::to_string(recipients_max);
    }
    if (most > 1 && pattern.recipient.find("{n}") == std::string::npos) {
        return "several recipients need {n} in their pattern";
    }
    if (pattern.domain_count == 0) return "domains must be at least 1";
    double weight = pattern.domains.empty() ? 1 : 0;
    for (const WeightedDomain& domain : pattern.domains) {
        if (domain.name.empty() || domain.name.find_first_of(" <>@\r\n\t{") != std::string::npos)
            return "'" + domain.name + "' is not a domain";
        if (!(domain.weight >= 0)) return "a domain's weight must not be negative";
        weight += domain.weight;
    }
    if (!(weight > 0)) return "the domains' weights are all 0";
    weight = pattern.sizes.empty() ? 1 : 0;
    for (const SizeRange& size : pattern.sizes) {
        if (std::string fault = check_sizes(size.bytes_min, size.bytes_max); !fault.empty())
            return fault;
        if (!(size.weight >= 0)) return "a size's weight must not be negative";
        weight += size.weight;
    }
    if (!(weight > 0)) return "the sizes' weights are all 0";
    if (pattern.sizes.empty()) return check_sizes(pattern.bytes_min, pattern.bytes_max);
    return {};
}

MessageMaker::MessageMaker(MessagePattern pattern)
    : pattern_(std::move(pattern)), size_shares_(running_shares(pattern_.sizes)),
      domain_shares_(running_shares(pattern_.domains)) {
    std::mt19937_64 random(pattern_.seed);
    pool_.reserve(pool_bytes + 128);
    while (pool_.size() < pool_bytes) {
        line_starts_.push_back(static_cast<std::uint32_t>(pool_.size()));
        const std::uint64_t kind = random();
        if (kind % 16 == 0) pool_ += '.';
        if (kind % 64 == 0) pool_ += '.'; // what a naive dot-stuffer gets wrong
        const std::size_t length = 20 + (kind >> 8) % 57;
        for (std::size_t i = 0; i < length; ++i) {
            // Printable ASCII without the tilde; spaces often enough to look like words.
            const std::uint64_t draw = random();
            pool_ += draw % 6 == 0 && i != 0 && i + 1 != length
                         ? ' '
                         : static_cast<char>('!' + (draw >> 8) % 93);
        }
        pool_ += "\r\n";
    }
}

std::string_view MessageMaker::domain_of(std::uint64_t sequence, std::size_t number,
                                         std::string& digits) const {
    if (domain_shares_.empty()) {
        digits = std::to_string(sequence % pattern_.domain_count);
        return digits;
    }
    const double draw =
        share_of(scramble(sequence ^ domain_salt) ^ scramble(number ^ scramble(pattern_.seed)));
    return pattern_.domains[pick(domain_shares_, draw)].name;
}

std::size_t MessageMaker::wanted_bytes(std::uint64_t draw) const noexcept {
    SizeRange size{.bytes_min = pattern_.bytes_min, .bytes_max = pattern_.bytes_max};
    if (!size_shares_.empty()) size = pattern_.sizes[pick(size_shares_, share_of(draw))];
    return size.bytes_min + static_cast<std::size_t>(draw % (size.bytes_max - size.bytes_min + 1));
}

void MessageMaker::make(std::uint64_t sequence, std::string_view date, Message& message) const {
    const std::uint64_t draw = scramble(sequence ^ scramble(pattern_.seed));
    std::string digits;
    message.sequence = sequence;
    message.sender.clear();
    append_expanded(message.sender, pattern_.sender, pattern_.run, sequence, 0,
                    domain_of(sequence, 0, digits));
    std::size_t recipients = pattern_.recipient_count;
    if (pattern_.recipient_count_max > recipients)
        recipients += (draw >> 40) % (pattern_.recipient_count_max - recipients + 1);
    message.recipients.resize(recipients);
    for (std::size_t i = 0; i < message.recipients.size(); ++i) {
        message.recipients[i].clear();
        append_expanded(message.recipients[i], pattern_.recipient, pattern_.run, sequence, i,
                        domain_of(sequence, i, digits));
    }

    std::string& text = message.content;
    text.clear();
    text += "From: <";
    text += message.sender;
    text += ">\r\nTo: <";
    text += message.recipients.front();
    text += ">\r\nSubject: bench ";
    append_number(text, sequence);
    text += "\r\nDate: ";
    text += date;
    text += "\r\nMessage-ID: <";
    append_number(text, sequence);
    text += '.';
    text += pattern_.run;
    text +=
        "@bench.example>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n";
    const std::uint64_t fields = digest_of_fields(text);
    text += run_field;
    text += ": ";
    text += pattern_.run;
    text += "\r\n";
    text += sequence_field;
    text += ": ";
    append_number(text, sequence);
    text += "\r\n";
    text += header_field;
    text += ": ";
    append_digest(text, fields);
    text += "\r\n";
    text += digest_field;
    text += ": ";
    const std::size_t digest_at = text.size();
    text.append(digest_digits, '0');
    text += "\r\n\r\n";
    const std::size_t body_at = text.size();

    text += "This is message ";
    append_number(text, sequence);
    text += " of ";
    text += pattern_.run;
    text += ".\r\n";
    const std::size_t wanted = wanted_bytes(draw);
    std::size_t start = line_starts_[(draw >> 20) % line_starts_.size()];
    while (text.size() < wanted) {
        const std::size_t take = std::min(wanted - text.size(), pool_.size() - start);
        text.append(pool_, start, take);
        start = 0;
    }
    // The cut may lie anywhere: end with a whole CRLF, and leave no CR alone before it.
    if (!text.ends_with("\r\n")) {
        if (text[text.size() - 3] == '\r') text[text.size() - 3] = '-';
        text[text.size() - 2] = '\r';
        text[text.size() - 1] = '\n';
    }

    std::string digest;
    append_digest(digest, digest_of(base::as_bytes(std::string_view{text}.substr(body_at))));
    text.replace(digest_at, digest_digits, digest);
}

void append_dot_stuffed(std::string& out, std::string_view content) {
    if (content.starts_with('.')) out += '.';
    for (;;) {
        const std::size_t dot_line = content.find("\n.");
        if (dot_line == std::string_view::npos) break;
        out.append(content.substr(0, dot_line + 1));
        out += '.';
        content.remove_prefix(dot_line + 1);
        // The dot itself leaves with the next stretch; step over it so that it is not found again.
        out += '.';
        content.remove_prefix(1);
    }
    out.append(content);
    out += ".\r\n";
}

} // namespace dataplane::loadgen
