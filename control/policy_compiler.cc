#include "control/policy_compiler.h"

#include "control/notation.h"
#include "control/schema/snapshot_format.h"
#include "control/screen/screen_compiler.h"
#include "dataplane/base/check.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <memory>
#include <openssl/evp.h>
#include <set>
#include <unistd.h>

namespace control {
namespace {

namespace dkim = dataplane::message::dkim;
constexpr std::size_t key_errors_max = 200; // a person mends a few at a time

/// A descriptor, closed at the end of its scope.
class File {
public:
    File(const std::string& path, int flags, mode_t mode = 0)
        : descriptor_(open(path.c_str(), flags | O_CLOEXEC, mode)) {}
    ~File() {
        if (descriptor_ >= 0) close(descriptor_);
    }
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    [[nodiscard]] bool is_open() const noexcept { return descriptor_ >= 0; }
    [[nodiscard]] bool sync() const noexcept { return fsync(descriptor_) == 0; }
    [[nodiscard]] bool write_all(std::string_view bytes) const noexcept {
        while (!bytes.empty()) {
            const ssize_t took = write(descriptor_, bytes.data(), bytes.size());
            if (took < 0 && errno == EINTR) continue;
            if (took <= 0) return false;
            bytes.remove_prefix(static_cast<std::size_t>(took));
        }
        return true;
    }

private:
    int descriptor_;
};

std::string reason(const std::string& path) {
    return path + ": " + std::strerror(errno);
}

} // namespace

std::vector<ConfigError> compile_screening(Config& config) {
    CHECK(config.patterns.size() == config.policy.screen->rules.size());
    if (config.patterns.empty()) return {};
    auto compiled = screen::compile_patterns(config.patterns);
    if (!compiled) {
        const screen::CompileError& error = compiled.error();
        const unsigned line = error.index ? config.pattern_lines[*error.index] : 0;
        const std::string key = error.index ? "rule.pattern of " + in_quotes(error.name) : "";
        return {
            {config.rules_file, line, key, error.reason + "; mend the expression or its flags"}};
    }
    const auto move_to = [](const std::string& from, std::vector<std::uint8_t>& to) {
        to.assign(from.begin(), from.end());
    };
    move_to(compiled->header_database, config.policy.screen->header_database);
    move_to(compiled->body_database, config.policy.screen->body_database);
    return {};
}

std::vector<dkim::KeyTable> dkim_tables(const schema::PolicyT& policy) {
    std::vector<dkim::KeyTable> tables;
    for (const auto& from : policy.dkim) {
        tables.push_back({.domains = from->domains,
                          .selector = from->selector,
                          .key_file = from->key_file,
                          .scope = static_cast<dkim::Scope>(from->scope),
                          .tenant = from->tenant,
                          .kind = static_cast<dkim::KeyKind>(from->algorithm),
                          .headers = from->headers,
                          .oversign = from->oversign,
                          .identity = from->identity});
    }
    return tables;
}

std::vector<ConfigError> check_dkim_keys(const Config& config, std::vector<std::string>& warnings) {
    if (config.policy.dkim.empty()) return {};
    dkim::KeyCache cache;
    auto loaded = dkim::load_key_set(dkim_tables(config.policy), cache);
    std::vector<ConfigError> errors;
    if (loaded) {
        warnings.insert(warnings.end(), loaded->warnings.begin(), loaded->warnings.end());
        if (loaded->keys->empty())
            warnings.emplace_back("there is a [[dkim]], and no key: no mail will be signed");
        return errors;
    }
    for (dkim::LoadError& error : loaded.error()) {
        if (errors.size() == key_errors_max) break;
        errors.push_back(
            {config.file, config.dkim_lines[error.table], "dkim.key", std::move(error.text)});
    }
    return errors;
}

std::vector<std::string> add_accounts(schema::PolicyT& policy, std::span<const Account> accounts) {
    std::set<std::string> known;
    for (const auto& source : policy.sources)
        known.insert(source->name);
    for (const auto& pool : policy.pools)
        known.insert(pool->name);
    std::vector<std::string> warnings;
    policy.accounts.clear();
    for (const Account& account : accounts) {
        auto to = std::make_unique<schema::AccountT>();
        to->name = account.name;
        to->generation = account.generation;
        to->enabled = account.enabled;
        to->tenant = account.tenant;
        to->sender_domains = account.sender_domains;
        to->messages_per_hour_max = account.messages_per_hour_max;
        to->certificates = account.certificates;
        if (known.contains(account.source)) to->source = account.source;
        if (!account.source.empty() && to->source.empty()) {
            warnings.push_back("account " + account.name + " names the source or pool " +
                               in_quotes(account.source) +
                               ", which is not there; its mail takes the route's");
        }
        policy.accounts.push_back(std::move(to));
    }
    return warnings;
}

std::string make_snapshot(const schema::PolicyT& policy) {
    flatbuffers::FlatBufferBuilder builder;
    builder.Finish(schema::Policy::Pack(builder, &policy), schema::PolicyIdentifier());

    schema::SnapshotHeader header{};
    header.magic = schema::snapshot_magic;
    header.format_version = schema::snapshot_format_version;
    header.header_bytes = sizeof header;
    header.policy_version = policy.version;
    header.payload_bytes = builder.GetSize();
    std::string file(sizeof header + builder.GetSize(), '\0');
    std::memcpy(file.data(), &header, sizeof header);
    std::memcpy(file.data() + sizeof header, builder.GetBufferPointer(), builder.GetSize());

    struct FreeContext {
        void operator()(EVP_MD_CTX* context) const noexcept { EVP_MD_CTX_free(context); }
    };
    const std::unique_ptr<EVP_MD_CTX, FreeContext> context(EVP_MD_CTX_new());
    unsigned bytes = 0;
    CHECK(context && EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1);
    CHECK(EVP_DigestUpdate(context.get(), file.data(), schema::snapshot_digested_header_bytes) ==
          1);
    CHECK(EVP_DigestUpdate(context.get(), file.data() + sizeof header, builder.GetSize()) == 1);
    CHECK(EVP_DigestFinal_ex(context.get(), header.digest.data(), &bytes) == 1 &&
          bytes == header.digest.size());
    std::memcpy(file.data(), &header, sizeof header);
    return file;
}

std::uint64_t published_version(const std::string& path) {
    std::ifstream stream(path, std::ios::binary);
    schema::SnapshotHeader header{};
    stream.read(reinterpret_cast<char*>(&header), sizeof header);
    return stream.gcount() == sizeof header && header.magic == schema::snapshot_magic
               ? header.policy_version
               : 0;
}

std::expected<std::uint64_t, std::string> publish_snapshot(schema::PolicyT& policy,
                                                           const std::string& path) {
    policy.version = published_version(path) + 1;
    const std::string bytes = make_snapshot(policy);
    const std::string fresh = path + ".new";
    {
        const File file(fresh, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (!file.is_open() || !file.write_all(bytes) || !file.sync())
            return std::unexpected(reason(fresh));
    }
    if (std::rename(fresh.c_str(), path.c_str()) != 0) return std::unexpected(reason(path));
    // The rename itself is durable only with its folder; without it an old policy could come back.
    const std::string folder = std::filesystem::path(path).parent_path().string();
    const File directory(folder, O_RDONLY | O_DIRECTORY);
    if (!directory.is_open() || !directory.sync()) return std::unexpected(reason(folder));
    return policy.version;
}

} // namespace control
