#include "dataplane/message/dkim/record.h"

#include "dataplane/message/dkim/base64.h"

#include <algorithm>
#include <map>
#include <optional>

namespace dataplane::message::dkim {
namespace {

constexpr std::size_t string_bytes_max = 255;

std::string_view trimmed(std::string_view text) noexcept {
    constexpr std::string_view blanks = " \t\r\n";
    const std::size_t begin = std::min(text.find_first_not_of(blanks), text.size());
    text.remove_prefix(begin);
    return text.substr(0, text.find_last_not_of(blanks) + 1);
}

std::string_view key_kind(const SigningKey& key) noexcept {
    return key.algorithm() == Algorithm::rsa_sha256 ? "rsa" : "ed25519";
}

/// Whether the list "a:b" has one of these.
bool lists(std::string_view list, std::string_view one, std::string_view other) noexcept {
    while (true) {
        const std::size_t colon = list.find(':');
        const std::string_view entry = trimmed(list.substr(0, colon));
        if (entry == one || entry == other) return true;
        if (colon == std::string_view::npos) return false;
        list.remove_prefix(colon + 1);
    }
}

} // namespace

std::string record_name(std::string_view domain, std::string_view selector) {
    return std::string{selector}.append("._domainkey.").append(domain);
}

std::string record_text(const SigningKey& key, bool testing) {
    std::string text = "v=DKIM1; k=";
    text.append(key_kind(key)).append(testing ? "; t=y; p=" : "; p=").append(key.public_text());
    return text;
}

std::string zone_entry(std::string_view name, std::string_view text) {
    std::string entry{name};
    entry.append(". IN TXT (");
    while (!text.empty()) {
        const std::string_view part = text.substr(0, string_bytes_max);
        entry.append(" \"").append(part).append("\"");
        text.remove_prefix(part.size());
        if (!text.empty()) entry.append("\n   ");
    }
    return entry.append(" )");
}

RecordCheck check_record(std::string_view text, const SigningKey& key, std::string_view domain,
                         std::string_view agent) {
    RecordCheck result;
    const auto problem = [&](std::string what) { result.problems.push_back(std::move(what)); };
    std::map<std::string_view, std::string_view> tags;
    bool first = true;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find(';'), text.size());
        const std::string_view tag = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        if (trimmed(tag).empty()) continue;
        const std::size_t equals = tag.find('=');
        if (equals == std::string_view::npos) {
            problem("\"" + std::string{trimmed(tag)} + "\" is no tag: expected name=value");
            continue;
        }
        const std::string_view name = trimmed(tag.substr(0, equals));
        if (name == "v" && !first) problem("v= must come first");
        first = false;
        if (!tags.emplace(name, trimmed(tag.substr(equals + 1))).second)
            problem(std::string{name} + "= is there twice");
    }
    const auto value = [&](std::string_view name) {
        const auto found = tags.find(name);
        return found == tags.end() ? std::optional<std::string_view>{} : found->second;
    };
    if (value("v").value_or("DKIM1") != "DKIM1")
        problem("v= is \"" + std::string{*value("v")} + "\"; it must be DKIM1");
    if (const auto kind = value("k").value_or("rsa"); kind != key_kind(key)) {
        problem("k= is " + std::string{kind} + (value("k") ? "" : " (because it is not there)") +
                ", the key file has an " + std::string{key_kind(key)} + " key");
    }
    if (value("h") && !lists(*value("h"), "sha256", "sha256")) problem("h= does not allow sha256");
    if (value("s") && !lists(*value("s"), "*", "email")) problem("s= does not allow email");
    const auto published = value("p");
    std::string there, ours;
    if (!published) {
        problem("p= is not there");
    } else if (published->empty()) {
        problem("p= is empty: the key has been revoked");
    } else if (!decode_base64(*published, there)) {
        problem("p= is no base64");
    } else if (decode_base64(key.public_text(), ours) && there != ours) {
        problem("p= is another key than the file's");
    }
    const std::string_view flags = value("t").value_or("");
    if (lists(flags, "y", "y"))
        result.notes.emplace_back(
            "t=y: the domain is testing, receivers treat its mail as unsigned");
    const std::string_view agent_domain =
        agent.substr(std::min(agent.rfind('@') + 1, agent.size()));
    if (lists(flags, "s", "s") && !agent.empty() && agent_domain != domain)
        problem("t=s: the domain of i= must be that of d=, and identity says otherwise");
    return result;
}

} // namespace dataplane::message::dkim
