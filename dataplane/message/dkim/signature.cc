#include "dataplane/message/dkim/signature.h"

#include "dataplane/base/check.h"
#include "dataplane/message/dkim/base64.h"

#include <algorithm>

namespace dataplane::message::dkim {
namespace {

/// Appends words, and begins a new line before one that would not fit.
class Folder {
public:
    explicit Folder(std::string& to) noexcept : to_(to) {}
    /// Text that stands at the beginning, or goes on without a blank.
    void join(std::string_view word) {
        if (column_ + word.size() > fold_columns && column_ > 1) new_line();
        to_.append(word);
        column_ += word.size();
    }
    void word(std::string_view word) {
        if (column_ + 1 + word.size() > fold_columns) {
            new_line();
        } else {
            to_.push_back(' ');
            ++column_;
        }
        to_.append(word);
        column_ += word.size();
    }
    void new_line() {
        to_.append("\r\n ");
        column_ = 1;
    }

private:
    std::string& to_;
    std::size_t column_ = 0;
};

std::string_view form_name(Canonical form) noexcept {
    return form == Canonical::relaxed ? "relaxed" : "simple";
}

std::string_view text_of(const Digest& digest) noexcept {
    return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

} // namespace

bool Selection::select(const SigningOptions& options, std::span<const HeaderField> prelude,
                       std::span<const HeaderField> header) {
    options_ = &options;
    found_.clear();
    fields_.clear();
    counts_.assign(options.headers.size(), 0);
    for (const auto part : {prelude, header}) {
        for (const HeaderField& field : part) {
            const std::size_t rule = options.rule_of(field.name());
            if (rule == options.headers.size()) continue;
            if (found_.size() == signed_fields_max) return false;
            found_.push_back({rule, &field});
            ++counts_[rule];
        }
    }
    for (std::size_t rule = 0; rule < counts_.size(); ++rule) {
        std::size_t left = counts_[rule];
        for (auto found = found_.rbegin(); left != 0; ++found) {
            if (found->rule != rule) continue;
            fields_.push_back(found->field);
            --left;
        }
    }
    return true;
}

Sha256 Selection::hash() const noexcept {
    Sha256 hash;
    for (const HeaderField* field : fields_) {
        canonical_field(options_->header_form, field->text, hash);
        hash.add("\r\n");
    }
    return hash;
}

void append_signature(std::string& to, const Identity& identity, const Selection& selection,
                      const Digest& body_hash, base::WallTime now) {
    const SigningOptions& options = *identity.options;
    CHECK(selection.options() == &options);
    const auto seconds = std::chrono::floor<std::chrono::seconds>(now.time_since_epoch()).count();
    std::string tag;
    const auto write = [&tag](std::string_view name, std::string_view value) -> std::string_view {
        tag.assign(name).append("=").append(value).append(";");
        return tag;
    };
    Folder line{to};
    line.join("DKIM-Signature:");
    line.word("v=1;");
    line.word(write("a", to_string(identity.key->algorithm())));
    line.word(write("c", std::string{form_name(options.header_form)}.append("/").append(
                             form_name(options.body_form))));
    line.word(write("d", identity.domain));
    line.word(write("s", identity.selector));
    if (!identity.agent.empty()) line.word(write("i", identity.agent));
    line.word("q=dns/txt;");
    line.word(write("t", std::to_string(seconds)));
    if (options.expire_after.count() != 0)
        line.word(write("x", std::to_string(seconds + options.expire_after.count())));
    bool first = true;
    for (std::size_t rule = 0; rule < options.headers.size(); ++rule) {
        // One more than there are: a field of this name that is added later breaks the signature.
        const unsigned times =
            selection.counts()[rule] + (options.headers[rule].oversign ? 1U : 0U);
        for (unsigned i = 0; i < times; ++i) {
            tag.assign(first ? "h=" : ":").append(options.headers[rule].name);
            first ? line.word(tag) : line.join(tag);
            first = false;
        }
    }
    line.join(";");
    tag.assign("bh=");
    append_base64(tag, text_of(body_hash));
    line.word(tag.append(";"));
    line.new_line();
    line.join("b=");
}

Digest digest_to_sign(Sha256 fields, Canonical form, std::string_view signature) noexcept {
    canonical_field(form, signature, fields);
    return fields.finish();
}

void append_value(std::string& to, std::string_view signature) {
    std::string text;
    text.reserve(base64_size(signature.size()));
    append_base64(text, signature);
    std::string_view left = text;
    std::size_t room = fold_columns - 3; // behind " b="
    while (left.size() > room) {
        to.append(left.substr(0, room)).append("\r\n ");
        left.remove_prefix(room);
        room = fold_columns - 1;
    }
    to.append(left).append("\r\n");
}

} // namespace dataplane::message::dkim
