// message_signer.h: one message's way from its first byte to its signatures.
//
// Scope      Takes the header and the body as they stream in, decides whose keys sign once the header is
//            complete, hashes the body for the canonical forms that those keys use and no others, and at
//            the end puts the signatures in front of the prelude.
// Owns       A copy of the header section (at most header_bytes_max) and two body hashes. SigningDesk keeps
//            those that are between two messages.
// Threading  Bound to a shard.
// Failure    SignReport: why there is no signature, and whether the message must wait for one.
//
// begin -> header* -> header_ended -> body* -> sign, or anything -> begin.
#pragma once

#include "dataplane/message/dkim/canonical.h"
#include "dataplane/message/dkim/header_fields.h"
#include "dataplane/message/dkim/key_set.h"
#include "dataplane/message/dkim/sha256.h"
#include "dataplane/message/dkim/signature.h"
#include "dataplane/message/dkim/signer.h"

#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dataplane::message::dkim {

/// Why a message has no signature.
enum class Unsigned : std::uint8_t {
    no_key,    // nobody's key is for it
    no_author, // no From field, or several: RFC 6376 §5.4 wants one signed
    malformed, // verifiers would not agree on what its header is
    failed,    // a key did not sign, and send_unsigned says what then
};
[[nodiscard]] std::string_view to_string(Unsigned why) noexcept;

struct SignReport {
    unsigned signed_count = 0;
    unsigned failed_count = 0;
    bool defer = false; // a failed one says so: nothing was put in front of the prelude
    Unsigned why = Unsigned::no_key; // when signed_count is 0
    std::optional<SignError> error;  // of the last failure
};

class MessageSigner {
public:
    /// \param keys    held until the next begin() or release()
    /// \param tenant  whose mail it is
    void begin(std::shared_ptr<const KeySet> keys, std::string_view tenant);
    void header(std::string_view piece);
    /// The header is complete. A message without a body may come to sign() without this.
    /// \param well_formed  it ended with a blank line, or the message did
    void header_ended(bool well_formed);
    void body(std::string_view piece) noexcept;
    /// Puts a DKIM-Signature in front of `prelude` for each key that is to sign.
    /// \param prelude  the fields that the relay puts in front of the header; outlives the task
    [[nodiscard]] base::Task<SignReport> sign(Signer& signer, std::string& prelude,
                                              std::size_t prelude_bytes_max, base::WallTime now,
                                              base::Deadline deadline);
    /// "example.com/s1 esp.example/2026": what signed, for the event; valid until begin().
    [[nodiscard]] std::string_view signed_by() const noexcept { return signed_by_; }
    /// Lets go of the keys and of what an unusually large message needed.
    void release() noexcept;

private:
    struct BodyHash {
        explicit BodyHash(Canonical form) noexcept : canonical(form, hash) {}
        Sha256 hash;
        BodyCanonical<Sha256> canonical;
        Digest digest{};
    };
    [[nodiscard]] bool prepare(std::string_view prelude);
    [[nodiscard]] BodyHash& body_hash(Canonical form) noexcept {
        return *bodies_[static_cast<std::size_t>(form)];
    }

    std::shared_ptr<const KeySet> keys_;
    std::string tenant_;
    std::string header_;
    std::vector<HeaderField> fields_; // of header_
    std::string author_domain_;
    std::optional<Unsigned> refused_;
    bool header_open_ = true;
    Choice choice_;
    std::array<std::optional<BodyHash>, 2> bodies_; // by form
    // While signing.
    std::vector<HeaderField> prelude_fields_;
    Selection selection_;
    std::string made_; // the signatures
    std::string signed_by_;
};

/// What a shard's sessions sign with.
class SigningDesk {
public:
    explicit SigningDesk(Signer& signer) noexcept : signer_(&signer) {}
    /// From the next message on. Null: nothing is signed.
    void use(std::shared_ptr<const KeySet> keys) noexcept { keys_ = std::move(keys); }
    [[nodiscard]] const std::shared_ptr<const KeySet>& keys() const noexcept { return keys_; }
    [[nodiscard]] Signer& signer() const noexcept { return *signer_; }
    /// One for the next message, begun; null when there are no keys.
    [[nodiscard]] std::unique_ptr<MessageSigner> begin(std::string_view tenant);
    void give_back(std::unique_ptr<MessageSigner> signer) noexcept;

private:
    Signer* signer_;
    std::shared_ptr<const KeySet> keys_; // atomic count: shared by all shards, see KeySet
    std::vector<std::unique_ptr<MessageSigner>> idle_;
};

} // namespace dataplane::message::dkim
