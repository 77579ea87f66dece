#include "dataplane/loadgen/content_check.h"

#include "dataplane/base/slab.h"
#include "dataplane/loadgen/limits.h"
#include "dataplane/loadgen/message_maker.h"

#include <charconv>
#include <cstring>

namespace dataplane::loadgen {
namespace {

/// The value of a field that stands alone on its line, or empty.
std::string_view field_value(std::string_view header, std::string_view name) {
    for (std::size_t at = header.find(name); at != std::string_view::npos;
         at = header.find(name, at + 1)) {
        if (at != 0 && header[at - 1] != '\n') continue;
        std::string_view value = header.substr(at + name.size());
        if (!value.starts_with(':')) continue;
        value.remove_prefix(1);
        value = value.substr(0, value.find('\r'));
        while (value.starts_with(' '))
            value.remove_prefix(1);
        while (value.ends_with(' '))
            value.remove_suffix(1);
        return value;
    }
    return {};
}

template <class Number>
bool read_number(std::string_view text, Number& number, int radix) {
    const auto [end, error] =
        std::from_chars(text.data(), text.data() + text.size(), number, radix);
    return error == std::errc{} && !text.empty() && end == text.data() + text.size();
}

bool has_field(std::string_view header, std::string_view name) {
    for (std::size_t at = header.find(name); at != std::string_view::npos;
         at = header.find(name, at + 1)) {
        if (at == 0 || header[at - 1] == '\n') return true;
    }
    return false;
}

} // namespace

std::uint64_t digest_of_fields(std::string_view header) {
    BodyDigest digest;
    for (const std::string_view name :
         {"From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type"}) {
        digest.update(base::as_bytes(field_value(header, name)));
        digest.update(base::as_bytes(std::string_view{"\n"}));
    }
    return digest.finish();
}

void ContentCheck::begin() noexcept {
    header_.clear();
    in_header_ = true;
    ours_ = damaged_ = signed_ = false;
    run_.clear();
    sequence_ = 0;
    expected_digest_ = 0;
    bytes_seen_ = 0;
    digest_.reset();
}

void ContentCheck::feed(std::span<const std::byte> bytes) {
    bytes_seen_ += bytes.size();
    if (!in_header_) {
        digest_.update(bytes);
        return;
    }
    // The blank line may lie across two pieces: look again at the last three bytes.
    const std::size_t before = header_.size();
    header_.append(base::as_text(bytes));
    const std::size_t end = header_.find("\r\n\r\n", before < 3 ? 0 : before - 3);
    if (end == std::string::npos) {
        if (header_.size() > header_bytes_max) in_header_ = false; // endless: somebody else's
        return;
    }
    in_header_ = false;
    read_header(std::string_view{header_}.substr(0, end + 2));
    const std::size_t body_at = end + 4 - before; // within `bytes`: the blank line's end is new
    digest_.update(bytes.subspan(body_at));
}

void ContentCheck::read_header(std::string_view header) {
    signed_ = has_field(header, "DKIM-Signature:");
    for (const std::string_view name : {run_field, sequence_field, header_field, digest_field})
        ours_ = ours_ || has_field(header, name);
    if (!ours_) return;
    const std::string_view run = field_value(header, run_field);
    std::uint64_t fields = 0;
    const bool known =
        !run.empty() && read_number(field_value(header, sequence_field), sequence_, 10);
    if (known) run_ = run;
    damaged_ = !known || !read_number(field_value(header, digest_field), expected_digest_, 16) ||
               !read_number(field_value(header, header_field), fields, 16) ||
               fields != digest_of_fields(header);
}

ContentState ContentCheck::finish() {
    if (!ours_) return ContentState::foreign;
    if (damaged_) return ContentState::altered;
    return digest_.finish() == expected_digest_ ? ContentState::whole : ContentState::altered;
}

DotReader::Step DotReader::step(std::span<const std::byte> bytes, ContentCheck& check) {
    const auto* const text = reinterpret_cast<const char*>(bytes.data());
    std::size_t fed = 0; // everything before this has gone to `check`
    std::size_t at = 0;
    while (at < bytes.size()) {
        switch (state_) {
        case State::line_start:
            if (text[at] == '.') {
                check.feed(bytes.subspan(fed, at - fed));
                fed = ++at; // the first dot of a line is never content
                state_ = State::dot;
            } else {
                state_ = State::in_line;
            }
            break;
        case State::dot:
            if (text[at] == '\r') {
                fed = ++at; // held back: it is content only if no LF follows
                state_ = State::dot_cr;
            } else {
                state_ = State::in_line;
            }
            break;
        case State::dot_cr:
            if (text[at] == '\n') {
                begin();
                return {at + 1, true};
            }
            check.feed(base::as_bytes(std::string_view{"\r"}));
            state_ = State::in_line;
            break;
        case State::in_line: {
            const void* lf = std::memchr(text + at, '\n', bytes.size() - at);
            if (lf == nullptr) {
                at = bytes.size();
            } else {
                at = static_cast<std::size_t>(static_cast<const char*>(lf) - text) + 1;
                state_ = State::line_start;
            }
            break;
        }
        }
    }
    check.feed(bytes.subspan(fed, at - fed));
    return {at, false};
}

} // namespace dataplane::loadgen
