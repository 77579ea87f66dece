#include "control/config_dkim.h"

#include "control/notation.h"
#include "dataplane/message/dkim/key_cache.h"
#include "dataplane/message/dkim/limits.h"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

namespace control {
namespace {

namespace dkim = dataplane::message::dkim;

bool is_field_name(std::string_view text) {
    return !text.empty() && text.size() <= name_bytes_max &&
           std::all_of(text.begin(), text.end(), [](char byte) {
               return byte > ' ' && byte <= '~' && byte != ':' && byte != ';';
           });
}

class DkimReader {
public:
    DkimReader(const Section& from, Config& config, std::vector<std::string>& warnings)
        : from_(from), config_(config), warnings_(warnings) {}

    void read() {
        const std::size_t errors_before = from_.errors().count();
        to_->domains = from_.texts("domains", domain);
        to_->selector = lower(from_.text("selector"));
        to_->key_file = from_.path("key");
        to_->scope = from_.choice<schema::DkimScope>("scope");
        to_->tenant = from_.text("tenant");
        to_->algorithm = from_.choice<schema::DkimAlgorithm>("algorithm");
        const auto forms = from_.choice<unsigned>("canonicalization");
        to_->header_form = forms < 2 ? schema::DkimForm::relaxed : schema::DkimForm::simple;
        to_->body_form = forms % 2 == 0 ? schema::DkimForm::relaxed : schema::DkimForm::simple;
        to_->headers = from_.texts("headers", field_name);
        to_->oversign = from_.texts("oversign", field_name);
        to_->expire_after_s = from_.seconds("expire_after");
        to_->identity = from_.text("identity");
        to_->on_failure = from_.choice<schema::DkimFailure>("on_failure");
        if (from_.errors().count() == errors_before) check();
        config_.policy.dkim.push_back(std::move(to_));
        config_.dkim_lines.push_back(from_.line("key"));
    }

private:
    void check() {
        if (to_->domains.empty())
            from_.error("domains", "expected at least one; write domains = [\"example.com\"]");
        if (!is_host_name(to_->selector))
            from_.error("selector", "expected letters, digits, hyphens and dots: it is part of the "
                                    "record's name; write selector = \"s2026\"");
        if (to_->key_file.empty())
            from_.error("key", "expected a path; write key = \"dkim/%d/%s.key\"");
        check_names();
        check_domains();
        check_identity();
        if (to_->expire_after_s != 0 && to_->expire_after_s < config_.policy.retry->expiry_s) {
            warnings_.push_back(
                "dkim.expire_after of line " + std::to_string(from_.line()) +
                " is shorter than retry.expiry: mail that is delivered late arrives "
                "with an expired signature");
        }
    }

    void check_names() {
        for (const std::string& name : to_->headers) {
            for (const std::string_view trace : {"dkim-signature", "received", "return-path"}) {
                if (lower(name) == trace)
                    from_.error("headers", in_quotes(name) + " changes on the way; remove it");
            }
        }
        if (to_->headers.size() >= dkim::header_names_max) {
            from_.error("headers", "expected fewer than " + std::to_string(dkim::header_names_max) +
                                       " names; remove those that receivers do not show");
        }
        if (!from_.given("oversign")) return;
        for (const std::string& name : to_->oversign) {
            const bool listed =
                lower(name) == "from" ||
                std::any_of(to_->headers.begin(), to_->headers.end(),
                            [&](const std::string& each) { return lower(each) == lower(name); });
            if (!listed)
                from_.error("oversign", in_quotes(name) + " is not signed; add it to headers");
        }
    }

    void check_domains() {
        const bool all = std::count(to_->domains.begin(), to_->domains.end(), "*") != 0;
        const std::size_t place = to_->key_file.find("%d");
        if (all && place == std::string::npos)
            from_.error("key", "domains = [\"*\"] takes the domains from the paths of their keys; "
                               "write key = \"dkim/%d/%s.key\"");
        if (all && to_->domains.size() != 1)
            from_.error("domains", "\"*\" is every domain that has a key; remove the others");
        if (to_->scope == schema::DkimScope::author) return;
        if (to_->domains.size() != 1 || all || to_->domains.front().starts_with('.')) {
            from_.error("domains",
                        "a table that signs other domains' mail has one domain, its own; "
                        "write domains = [\"example.com\"], or scope = \"author\"");
        }
    }

    void check_identity() {
        const std::string& identity = to_->identity;
        if (identity.empty()) return;
        const bool clean = is_printable(identity) &&
                           identity.find_first_of(" ;\"\\") == std::string::npos &&
                           std::count(identity.begin(), identity.end(), '@') == 1;
        bool below = clean;
        for (const std::string& entry : to_->domains) {
            const std::string name =
                entry == "*" ? "example.com" : entry.substr(entry.starts_with('.'));
            const std::string agent = dkim::key_path(identity, name, "");
            const std::string behind =
                agent.substr(std::min(agent.find('@'), agent.size() - 1) + 1);
            below = below && (behind == name || behind.ends_with("." + name));
        }
        if (!below) {
            from_.error("identity",
                        "expected an address in the domain that signs, or below it (RFC "
                        "6376 §3.5); write identity = \"@%d\"");
        }
    }

    static std::optional<std::string> domain(const std::string& text) {
        std::string kept = lower(text);
        const std::string_view name =
            kept.starts_with('.') ? std::string_view{kept}.substr(1) : std::string_view{kept};
        if (kept != "*" && !is_host_name(name)) return std::nullopt;
        return kept;
    }
    static std::optional<std::string> field_name(const std::string& text) {
        return is_field_name(text) ? std::optional{text} : std::nullopt;
    }

    const Section& from_;
    Config& config_;
    std::vector<std::string>& warnings_;
    std::unique_ptr<schema::DkimT> to_ = std::make_unique<schema::DkimT>();
};

} // namespace

void read_dkim(const Tables& tables, Config& config, std::vector<std::string>& warnings) {
    tables.each("dkim", {}, [&](const Section& from, const toml::table&) {
        DkimReader(from, config, warnings).read();
    });
}

} // namespace control
