// verifier.h: verifies DKIM signatures, plainly: RFC 6376 §6.1.3 over the reference's canonical forms.
//
// Threading  Pure. Stands beside opendkim and dkimpy, which tests/interop asks; this one is at hand in unit tests.
#pragma once

#include "dataplane/message/dkim/base64.h"
#include "dataplane/message/dkim/inline_signer.h"
#include "tests/dataplane/message/dkim/reference.h"

#include <algorithm>
#include <map>
#include <openssl/evp.h>
#include <string>
#include <string_view>
#include <vector>

namespace tests {

struct SeenSignature {
    std::map<std::string, std::string> tags; // blanks removed
    std::string text;                        // the field
    std::string problem;                     // empty: it verifies
};

class DkimVerifier {
public:
    explicit DkimVerifier(std::string_view message) {
        std::string_view left = message;
        while (!left.empty() && !left.starts_with("\r\n")) {
            std::size_t end = left.find("\r\n");
            while (end != std::string_view::npos && end + 2 < left.size() &&
                   (left[end + 2] == ' ' || left[end + 2] == '\t'))
                end = left.find("\r\n", end + 2);
            fields_.emplace_back(left.substr(0, end));
            left.remove_prefix(end == std::string_view::npos ? left.size() : end + 2);
        }
        body_ = left.substr(std::min<std::size_t>(2, left.size()));
    }

    /// All DKIM-Signature fields, from the top; `key` is whose they should be.
    [[nodiscard]] std::vector<SeenSignature>
    check(const dataplane::message::dkim::SigningKey& key) const {
        std::vector<SeenSignature> seen;
        for (const std::string& field : fields_) {
            if (name_of(field) == "dkim-signature") seen.push_back(check_one(field, key));
        }
        return seen;
    }

private:
    static std::string name_of(std::string_view field) {
        std::string name = dkim_reference::field(true, field);
        return name.substr(0, name.find(':'));
    }
    static std::string sha256(std::string_view text) {
        std::string digest(32, '\0');
        std::size_t size = digest.size();
        EVP_Q_digest(nullptr, "SHA256", nullptr, text.data(), text.size(),
                     reinterpret_cast<unsigned char*>(digest.data()), &size);
        return digest;
    }

    [[nodiscard]] SeenSignature check_one(const std::string& field,
                                          const dataplane::message::dkim::SigningKey& key) const {
        namespace dkim = dataplane::message::dkim;
        SeenSignature seen;
        seen.text = field;
        std::string value = field.substr(field.find(':') + 1);
        std::erase_if(value,
                      [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; });
        while (!value.empty()) {
            const std::size_t end = std::min(value.find(';'), value.size());
            const std::string tag = value.substr(0, end);
            value.erase(0, std::min(end + 1, value.size()));
            seen.tags[tag.substr(0, tag.find('='))] = tag.substr(tag.find('=') + 1);
        }
        const std::string forms = seen.tags["c"];
        const bool relaxed_header = forms.starts_with("relaxed/");
        std::string hash;
        dkim::append_base64(hash, sha256(dkim_reference::body(forms.ends_with("/relaxed"), body_)));
        if (hash != seen.tags["bh"]) {
            seen.problem = "body hash";
            return seen;
        }

        std::string signed_text;
        std::vector<bool> used(fields_.size());
        std::string names = seen.tags["h"] + ":";
        while (!names.empty()) {
            const std::size_t colon = names.find(':');
            const std::string name = name_of(names.substr(0, colon) + ":");
            names.erase(0, colon + 1);
            for (std::size_t i = fields_.size(); i-- > 0;) {
                if (used[i] || name_of(fields_[i]) != name) continue;
                used[i] = true;
                signed_text += dkim_reference::field(relaxed_header, fields_[i]) + "\r\n";
                break;
            }
        }
        const std::size_t b = field.rfind("b=");
        signed_text += dkim_reference::field(relaxed_header, field.substr(0, b + 2));
        const std::string digest_text = sha256(signed_text);
        dkim::Digest digest;
        std::transform(digest_text.begin(), digest_text.end(), digest.begin(),
                       [](char c) { return static_cast<std::byte>(c); });
        std::string raw;
        dkim::Signature signature;
        if (!dkim::decode_base64(seen.tags["b"], raw) || raw.size() > signature.bytes.size()) {
            seen.problem = "b= is no base64";
            return seen;
        }
        std::transform(raw.begin(), raw.end(), signature.bytes.begin(),
                       [](char c) { return static_cast<std::byte>(c); });
        signature.size = raw.size();
        if (!dkim::verifies(key, digest, signature)) seen.problem = "signature";
        return seen;
    }

    std::vector<std::string> fields_;
    std::string body_;
};

} // namespace tests
