#include "dataplane/message/dkim/message_signer.h"

#include "dataplane/message/dkim/base64.h"

#include <utility>

namespace dataplane::message::dkim {

std::string_view to_string(Unsigned why) noexcept {
    switch (why) {
    case Unsigned::no_key:
        return "no_key";
    case Unsigned::no_author:
        return "no_author";
    case Unsigned::malformed:
        return "malformed";
    case Unsigned::failed:
        return "failed";
    }
    return "unknown";
}

void MessageSigner::begin(std::shared_ptr<const KeySet> keys, std::string_view tenant) {
    release();
    keys_ = std::move(keys);
    tenant_.assign(tenant);
}

void MessageSigner::release() noexcept {
    keys_.reset();
    if (header_.capacity() > header_bytes_kept) header_ = std::string{};
    if (fields_.capacity() * sizeof(HeaderField) > header_bytes_kept) fields_ = {};
    header_.clear();
    fields_.clear();
    author_domain_.clear();
    refused_.reset();
    header_open_ = true;
    choice_.clear();
    for (auto& body : bodies_)
        body.reset();
    prelude_fields_.clear();
    selection_.clear();
    signed_by_.clear();
}

void MessageSigner::header(std::string_view piece) {
    if (header_.size() + piece.size() > header_bytes_max) {
        refused_ = Unsigned::malformed;
    } else {
        header_.append(piece);
    }
}

void MessageSigner::header_ended(bool well_formed) {
    header_open_ = false;
    if (!well_formed) refused_ = Unsigned::malformed;
    if (!refused_ && !parse_fields(header_, fields_)) refused_ = Unsigned::malformed;
    if (refused_) return;
    const HeaderField* author = nullptr;
    for (const HeaderField& field : fields_) {
        if (!field.is("from")) continue;
        if (author != nullptr) refused_ = Unsigned::no_author;
        author = &field;
    }
    if (author == nullptr) refused_ = Unsigned::no_author;
    if (refused_) return;
    dkim::author_domain(author->value(), author_domain_);
    keys_->choose(author_domain_, tenant_, choice_);
    if (choice_.empty()) refused_ = Unsigned::no_key;
    for (const Identity* identity : choice_.view()) {
        const Canonical form = identity->options->body_form;
        auto& body = bodies_[static_cast<std::size_t>(form)];
        if (!body) body.emplace(form);
    }
}

void MessageSigner::body(std::string_view piece) noexcept {
    for (auto& body : bodies_) {
        if (body) body->canonical.feed(piece);
    }
}

/// Everything but the signatures. False when there is none to make.
bool MessageSigner::prepare(std::string_view prelude) {
    if (header_open_) header_ended(true);
    for (auto& body : bodies_) {
        if (!body || refused_) continue;
        body->canonical.finish();
        body->digest = body->hash.finish();
        if (body->canonical.overflowed()) refused_ = Unsigned::malformed;
    }
    if (!refused_ && !parse_fields(prelude, prelude_fields_)) refused_ = Unsigned::malformed;
    for (const HeaderField& field : prelude_fields_) {
        if (field.is("from")) refused_ = Unsigned::no_author; // a second one
    }
    return !refused_;
}

base::Task<SignReport> MessageSigner::sign(Signer& signer, std::string& prelude,
                                           std::size_t prelude_bytes_max, base::WallTime now,
                                           base::Deadline deadline) {
    SignReport report;
    if (!prepare(prelude)) {
        report.why = *refused_;
        co_return report;
    }
    made_.clear();
    Sha256 fields;
    for (const Identity* identity : choice_.view()) {
        const SigningOptions& options = *identity->options;
        // Keys of one table, and tables that are alike, have the fields in common.
        if (selection_.options() != &options) {
            if (!selection_.select(options, prelude_fields_, fields_)) {
                report.why = Unsigned::malformed;
                co_return report;
            }
            fields = selection_.hash();
        }
        const std::size_t start = made_.size();
        append_signature(made_, *identity, selection_, body_hash(options.body_form).digest, now);
        const Digest digest =
            digest_to_sign(fields, options.header_form, std::string_view{made_}.substr(start));
        SignResult result = std::unexpected(SignError::failed);
        // A line too long for the wire, or more than the prelude holds, fails like a key does.
        const std::size_t value_bytes = base64_size(identity->key->signature_bytes()) * 78 / 75 + 8;
        if (prelude.size() + made_.size() + value_bytes <= prelude_bytes_max)
            result = co_await signer.sign(identity->key, digest, deadline);
        if (!result) {
            made_.resize(start);
            ++report.failed_count;
            report.error = result.error();
            report.defer = report.defer || options.on_failure == OnFailure::defer;
            continue;
        }
        append_value(made_, result->text());
        ++report.signed_count;
        if (!signed_by_.empty()) signed_by_.push_back(' ');
        signed_by_.append(identity->domain).append("/").append(identity->selector);
    }
    if (report.signed_count == 0) report.why = Unsigned::failed;
    if (!report.defer) prelude.insert(0, made_);
    co_return report;
}

std::unique_ptr<MessageSigner> SigningDesk::begin(std::string_view tenant) {
    if (keys_ == nullptr || keys_->empty()) return nullptr;
    std::unique_ptr<MessageSigner> signer;
    if (idle_.empty()) {
        signer = std::make_unique<MessageSigner>();
    } else {
        signer = std::move(idle_.back());
        idle_.pop_back();
    }
    signer->begin(keys_, tenant);
    return signer;
}

void SigningDesk::give_back(std::unique_ptr<MessageSigner> signer) noexcept {
    if (signer == nullptr || idle_.size() >= idle_signers_max) return;
    signer->release();
    if (idle_.capacity() == 0) idle_.reserve(idle_signers_max);
    idle_.push_back(std::move(signer));
}

} // namespace dataplane::message::dkim
