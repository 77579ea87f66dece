// record.h: the TXT record that tells the world a key: written, and compared with what DNS has.
//
// Scope      RFC 6376 §3.6.1, RFC 8463 §4.2. Asking DNS is elsewhere.
// Threading  Pure.
// Failure    check_record() lists what is wrong in sentences.
#pragma once

#include "dataplane/message/dkim/key.h"

#include <string>
#include <string_view>
#include <vector>

namespace dataplane::message::dkim {

/// "s1._domainkey.example.com"
[[nodiscard]] std::string record_name(std::string_view domain, std::string_view selector);
/// "v=DKIM1; k=rsa; p=..."
/// \param testing  t=y: receivers are to take no notice of failures
[[nodiscard]] std::string record_text(const SigningKey& key, bool testing);
/// One entry of a zone file, its text cut into strings of at most 255 bytes (RFC 1035 §3.3.14).
[[nodiscard]] std::string zone_entry(std::string_view name, std::string_view text);

struct RecordCheck {
    std::vector<std::string> problems; // any: receivers do not verify with this key
    std::vector<std::string> notes;
};
/// \param text   of one TXT record, its strings put together
/// \param agent  i= of the signatures, or empty
[[nodiscard]] RecordCheck check_record(std::string_view text, const SigningKey& key,
                                       std::string_view domain, std::string_view agent);

} // namespace dataplane::message::dkim
