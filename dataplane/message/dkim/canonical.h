// canonical.h: the two canonical forms of RFC 6376 §3.4, byte by byte as a message streams past.
//
// Scope      Bodies (BodyCanonical) in pieces cut anywhere, and single header fields. The output goes
//            to a Sink with add(std::string_view): Sha256, or a test's string.
// Owns       A stage of stage_bytes for what cannot be passed on as it lies in the input.
// Threading  A value.
// Failure    None: every sequence of bytes has a canonical form. A CR or LF alone is content.
//
// Both forms drop the empty lines at the end of a body, so line ends are held back, as a count, until
// something follows. Relaxed also drops blanks at the end of lines, and makes one SP of every other run of
// blanks. In mail hardly any byte changes: the fast path looks at 16 of them at a time for one that does,
// and hands everything between two such places to the hash where it lies.
#pragma once

#include "dataplane/message/dkim/limits.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace dataplane::message::dkim {

enum class Canonical : std::uint8_t { simple, relaxed };

/// The first byte of [at, end) at which relaxed canonical form may differ from the text, or end: a TAB, or
/// a blank before another blank or a CR. The byte before `at` is no blank, and the last one is none either.
[[nodiscard]] const char* find_blank_to_mend(const char* at, const char* end) noexcept;

template <class Sink>
class BodyCanonical {
public:
    BodyCanonical(Canonical form, Sink& sink) noexcept : sink_(&sink), form_(form) {}

    void feed(std::string_view piece) noexcept {
        const char* at = piece.data();
        const char* const end = at + piece.size();
        // What stands at the end of the piece may be the end of a line, or of the body.
        const char* text_end = end;
        while (text_end != at && held_back(text_end[-1]))
            --text_end;
        while (at != text_end) {
            while (at != text_end && holding())
                step(*at++);
            const char* const change =
                form_ == Canonical::relaxed ? find_blank_to_mend(at, text_end) : text_end;
            put({at, static_cast<std::size_t>(change - at)});
            at = change;
            if (at != text_end) step(*at++);
        }
        while (at != end)
            step(*at++);
    }

    /// There were more empty lines in a row than any mail has: what was put out is not its canonical form.
    [[nodiscard]] bool overflowed() const noexcept { return overflowed_; }

    /// The body is complete.
    void finish() noexcept {
        if (cr_) content('\r');
        cr_ = false;
        blank_ = false;
        // §3.4.3: an empty body is one CRLF. §3.4.4: an empty body is empty.
        if (form_ == Canonical::simple || any_) put("\r\n");
        flush();
    }

private:
    static constexpr std::size_t stage_bytes = 512;
    static constexpr std::size_t direct_bytes = 192; // from here on a copy costs more than a call

    [[nodiscard]] bool held_back(char c) const noexcept {
        return c == '\r' || c == '\n' || (form_ == Canonical::relaxed && (c == ' ' || c == '\t'));
    }
    [[nodiscard]] bool holding() const noexcept { return cr_ || blank_ || line_ends_ != 0; }

    void step(char c) noexcept {
        if (cr_) {
            cr_ = false;
            if (c == '\n') {
                blank_ = false; // it stood at the end of the line
                if (line_ends_ == line_ends_max) overflowed_ = true;
                if (!overflowed_) ++line_ends_;
                return;
            }
            content('\r');
        }
        if (c == '\r') {
            cr_ = true;
        } else if (form_ == Canonical::relaxed && (c == ' ' || c == '\t')) {
            blank_ = true;
        } else {
            content(c);
        }
    }

    void content(char c) noexcept {
        for (; line_ends_ != 0; --line_ends_)
            put("\r\n");
        if (blank_) put(" ");
        blank_ = false;
        put({&c, 1});
    }

    void put(std::string_view bytes) noexcept {
        if (bytes.empty()) return;
        any_ = true;
        if (bytes.size() > stage_.size() - staged_) flush();
        if (bytes.size() >= direct_bytes) {
            flush();
            sink_->add(bytes);
            return;
        }
        std::memcpy(stage_.data() + staged_, bytes.data(), bytes.size());
        staged_ += bytes.size();
    }

    void flush() noexcept {
        if (staged_ != 0) sink_->add({stage_.data(), staged_});
        staged_ = 0;
    }

    Sink* sink_;
    Canonical form_;
    bool cr_ = false; // a CR was read, and what follows it is not known
    bool blank_ =
        false;         // blanks were read, and whether something follows on their line is not known
    bool any_ = false; // something has been put out
    bool overflowed_ = false;
    std::uint32_t line_ends_ = 0; // read, and not put out
    std::size_t staged_ = 0;
    std::array<char, stage_bytes> stage_;
};

/// One header field in canonical form, without the CRLF behind it.
/// \param field  from its name to its last byte, without the CRLF that ends it
/// \pre   there is a colon
template <class Sink>
void canonical_field(Canonical form, std::string_view field, Sink& sink) noexcept {
    if (form == Canonical::simple) return sink.add(field); // §3.4.1
    std::array<char, 1024> stage;
    std::size_t staged = 0;
    const auto put = [&](std::string_view bytes) {
        if (bytes.size() > stage.size() - staged) {
            sink.add({stage.data(), staged});
            staged = 0;
        }
        if (bytes.size() > stage.size()) return sink.add(bytes);
        std::memcpy(stage.data() + staged, bytes.data(), bytes.size());
        staged += bytes.size();
    };
    const std::size_t colon = field.find(':');
    for (const char c : field.substr(0, colon)) { // §3.4.2
        const char lower_case = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
        if (c != ' ' && c != '\t') put({&lower_case, 1});
    }
    put(":");
    // Runs of what stays as it is, with one blank between them where there were any.
    const char* at = field.data() + colon + 1;
    const char* const end = field.data() + field.size();
    bool blank = false, any = false;
    while (at != end) {
        const char* const run = at;
        while (at != end && *at != ' ' && *at != '\t' && *at != '\r')
            ++at;
        const bool fold = at != end && *at == '\r' && at + 1 != end && at[1] == '\n';
        if (at != end && *at == '\r' && !fold) ++at; // content
        if (at != run) {
            if (blank && any) put(" ");
            blank = false;
            any = true;
            put({run, static_cast<std::size_t>(at - run)});
        } else if (fold) {
            at += 2; // it goes; the blanks around it are one run
        } else {
            blank = true;
            ++at;
        }
    }
    sink.add({stage.data(), staged});
}

} // namespace dataplane::message::dkim
