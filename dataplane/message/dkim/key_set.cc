#include "dataplane/message/dkim/key_set.h"

#include "dataplane/message/dkim/header_fields.h"

#include <algorithm>

namespace dataplane::message::dkim {
namespace {

bool same_name(std::string_view a, std::string_view b) noexcept {
    return std::ranges::equal(a, b, {}, lower, lower);
}

bool serves(const Identity& identity, std::string_view tenant) noexcept {
    return identity.options->tenant.empty() || identity.options->tenant == tenant;
}

} // namespace

std::size_t SigningOptions::bucket(std::string_view name) noexcept {
    if (name.empty()) return 0;
    return (name.size() * 7 + static_cast<unsigned char>(lower(name.front())) * 5 +
            static_cast<unsigned char>(lower(name.back()))) &
           0xff;
}

std::size_t SigningOptions::rule_of(std::string_view name) const noexcept {
    for (std::size_t at = first_of[bucket(name)]; at != 0; at = next_of[at - 1]) {
        if (same_name(headers[at - 1].lower_name, name)) return at - 1;
    }
    return headers.size();
}

void Choice::add(const Identity& identity) noexcept {
    if (count_ == chosen_.size()) return;
    for (const Identity* other : view()) { // two tables may name one key: one signature is enough
        if (other->domain == identity.domain && other->selector == identity.selector) return;
    }
    chosen_[count_++] = &identity;
}

void KeySet::choose(std::string_view author_domain, std::string_view tenant, Choice& choice) const {
    choice.clear();
    bool exact = true;
    for (std::string_view name = author_domain; !name.empty() && choice.empty(); exact = false) {
        if (const auto found = by_domain_.find(name); found != by_domain_.end()) {
            for (const std::uint32_t index : found->second) {
                const Identity& identity = identities_[index];
                if ((exact || identity.subdomains) && serves(identity, tenant))
                    choice.add(identity);
            }
        }
        const std::size_t dot = name.find('.');
        name.remove_prefix(dot == std::string_view::npos ? name.size() : dot + 1);
    }
    // The tenant's own fallback goes before everybody's.
    for (const bool own : {true, false}) {
        if (!choice.empty()) break;
        for (const std::uint32_t index : fallbacks_) {
            const Identity& identity = identities_[index];
            if (identity.options->tenant.empty() != own && serves(identity, tenant))
                choice.add(identity);
        }
    }
    for (const std::uint32_t index : always_) {
        if (serves(identities_[index], tenant)) choice.add(identities_[index]);
    }
}

/// One load, as its steps need it.
struct KeySetLoader {
    KeyCache& cache;
    KeySet& set;
    std::vector<LoadError>& errors;
    std::vector<std::string>& warnings;

    static std::shared_ptr<const SigningOptions> options(const KeyTable& table) {
        auto made = std::make_shared<SigningOptions>();
        made->header_form = table.header_form;
        made->body_form = table.body_form;
        made->expire_after = table.expire_after;
        made->tenant = table.tenant;
        made->on_failure = table.on_failure;
        const auto add = [&](const std::string& name) {
            if (made->rule_of(name) != made->headers.size()) return; // twice in the list
            std::string lower_name = name;
            std::ranges::transform(lower_name, lower_name.begin(), lower);
            const bool over = std::ranges::any_of(
                table.oversign, [&](const std::string& each) { return same_name(each, name); });
            made->headers.push_back({name, std::move(lower_name), over});
            std::uint8_t& first = made->first_of[SigningOptions::bucket(name)];
            made->next_of.push_back(first);
            first = static_cast<std::uint8_t>(made->headers.size());
        };
        add("From"); // RFC 6376 §5.4: it must be
        for (const std::string& name : table.headers) {
            if (made->headers.size() < header_names_max) add(name);
        }
        return made;
    }

    void table(const KeyTable& table, std::size_t index) {
        const auto shared_options = options(table);
        for (const std::string& entry : table.domains) {
            if (entry == "*") {
                auto found = domains_of(table.key_file, table.selector);
                if (!found) {
                    errors.push_back({index, std::move(found.error())});
                    continue;
                }
                for (const std::string& domain : *found)
                    add(table, index, domain, false, shared_options);
            } else {
                const bool subdomains = entry.starts_with('.');
                add(table, index, entry.substr(subdomains ? 1 : 0), subdomains, shared_options);
            }
        }
    }

    void add(const KeyTable& table, std::size_t index, const std::string& domain, bool subdomains,
             const std::shared_ptr<const SigningOptions>& shared_options) {
        const std::string path = key_path(table.key_file, domain, table.selector);
        auto file = cache.get(path);
        if (!file) return errors.push_back({index, std::move(file.error())});
        const bool rsa = file->key->algorithm() == Algorithm::rsa_sha256;
        if (table.kind != KeyKind::any && (table.kind == KeyKind::rsa) != rsa) {
            return errors.push_back({index, path + ": is an " + (rsa ? "RSA" : "Ed25519") +
                                                " key, and algorithm says otherwise; name another "
                                                "file, or leave algorithm out"});
        }
        if (file->exposed) {
            warnings.push_back(path +
                               " may be read by others than its owner; make it private with: "
                               "chmod 600 " +
                               path);
        }
        const auto at = static_cast<std::uint32_t>(set.identities_.size());
        set.identities_.push_back({domain, table.selector, key_path(table.identity, domain, ""),
                                   std::move(file->key), shared_options, subdomains, index, path});
        switch (table.scope) {
        case Scope::author:
            set.by_domain_[domain].push_back(at);
            break;
        case Scope::fallback:
            set.fallbacks_.push_back(at);
            break;
        case Scope::always:
            set.always_.push_back(at);
            break;
        }
    }
};

std::expected<LoadedKeys, std::vector<LoadError>> load_key_set(std::span<const KeyTable> tables,
                                                               KeyCache& cache) {
    cache.begin_round();
    auto set = std::make_shared<KeySet>();
    std::vector<LoadError> errors;
    std::vector<std::string> warnings;
    KeySetLoader loader{cache, *set, errors, warnings};
    for (std::size_t index = 0; index < tables.size(); ++index)
        loader.table(tables[index], index);
    if (!errors.empty()) return std::unexpected(std::move(errors));
    std::ranges::sort(warnings);
    warnings.erase(std::ranges::unique(warnings).begin(), warnings.end());
    return LoadedKeys{std::move(set), std::move(warnings)};
}

} // namespace dataplane::message::dkim
