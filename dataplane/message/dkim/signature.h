// signature.h: the DKIM-Signature field: which fields it covers, its text, and what is signed.
//
// Scope      RFC 6376 §3.5, §3.7 and §5.4. One signature at a time; message_signer.h has the whole message.
// Owns       Selection's lists, whose room is kept between messages.
// Threading  Values.
// Failure    A message with absurdly many fields to sign is refused.
#pragma once

#include "dataplane/base/clock.h"
#include "dataplane/message/dkim/header_fields.h"
#include "dataplane/message/dkim/key_set.h"
#include "dataplane/message/dkim/sha256.h"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dataplane::message::dkim {

/// The fields of a message that the options ask for, in the order in which they are hashed: for each name
/// of the list all that are there, the lowest one first (§5.4.2).
class Selection {
public:
    /// \param prelude, header  the message's fields from its top; they outlive the selection
    [[nodiscard]] bool select(const SigningOptions& options, std::span<const HeaderField> prelude,
                              std::span<const HeaderField> header);
    [[nodiscard]] std::span<const HeaderField* const> fields() const noexcept { return fields_; }
    /// How often each rule's name is there.
    [[nodiscard]] std::span<const std::uint16_t> counts() const noexcept { return counts_; }
    [[nodiscard]] const SigningOptions* options() const noexcept { return options_; }
    /// The hash over the fields alone, to which each signature adds itself.
    [[nodiscard]] Sha256 hash() const noexcept;
    void clear() noexcept { options_ = nullptr; }

private:
    struct Found {
        std::size_t rule;
        const HeaderField* field;
    };
    const SigningOptions* options_ = nullptr;
    std::vector<Found> found_;
    std::vector<const HeaderField*> fields_;
    std::vector<std::uint16_t> counts_;
};

/// Appends the field up to and with "b=", folded; see append_value().
void append_signature(std::string& to, const Identity& identity, const Selection& selection,
                      const Digest& body_hash, base::WallTime now);
/// What is signed: the selected fields and the signature's own, whose b= is still empty (§3.7).
[[nodiscard]] Digest digest_to_sign(Sha256 fields, Canonical form,
                                    std::string_view signature) noexcept;
/// Appends the value of b= and the end of the field.
void append_value(std::string& to, std::string_view signature);

} // namespace dataplane::message::dkim
