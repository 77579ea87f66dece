#include "dataplane/policy/snapshot.h"

#include "control/schema/policy_generated.h"
#include "control/schema/snapshot_format.h"
#include "dataplane/policy/policy_from_schema.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

namespace dataplane::policy {
namespace {

namespace schema = control::schema;

std::unexpected<SnapshotFailure> failure(SnapshotError error, std::string text) {
    return std::unexpected(SnapshotFailure{error, std::move(text)});
}

bool digest_matches(const schema::SnapshotHeader& header, std::span<const std::byte> payload) {
    struct FreeContext {
        void operator()(EVP_MD_CTX* context) const noexcept { EVP_MD_CTX_free(context); }
    };
    const std::unique_ptr<EVP_MD_CTX, FreeContext> context(EVP_MD_CTX_new());
    std::array<std::uint8_t, EVP_MAX_MD_SIZE> digest{};
    unsigned bytes = 0;
    return context && EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1 &&
           EVP_DigestUpdate(context.get(), &header, schema::snapshot_digested_header_bytes) == 1 &&
           EVP_DigestUpdate(context.get(), payload.data(), payload.size()) == 1 &&
           EVP_DigestFinal_ex(context.get(), digest.data(), &bytes) == 1 &&
           bytes == header.digest.size() &&
           std::equal(header.digest.begin(), header.digest.end(), digest.begin());
}

} // namespace

std::string_view to_string(SnapshotError error) noexcept {
    switch (error) {
    case SnapshotError::missing:
        return "missing";
    case SnapshotError::unreadable:
        return "unreadable";
    case SnapshotError::too_large:
        return "too large";
    case SnapshotError::truncated:
        return "truncated";
    case SnapshotError::bad_magic:
        return "not a snapshot";
    case SnapshotError::unsupported_version:
        return "unsupported version";
    case SnapshotError::checksum_mismatch:
        return "checksum mismatch";
    case SnapshotError::malformed:
        return "malformed";
    case SnapshotError::invalid_value:
        return "invalid value";
    }
    return "unknown";
}

std::expected<PolicyPtr, SnapshotFailure> parse_snapshot(std::span<const std::byte> file) {
    schema::SnapshotHeader header{};
    if (file.size() < sizeof header)
        return failure(SnapshotError::truncated, "shorter than its header");
    std::memcpy(&header, file.data(), sizeof header);
    if (header.magic != schema::snapshot_magic) {
        return failure(SnapshotError::bad_magic, "it does not begin as a policy snapshot does");
    }
    if (header.format_version != schema::snapshot_format_version ||
        header.header_bytes != sizeof header) {
        return failure(SnapshotError::unsupported_version,
                       "format version " + std::to_string(header.format_version) +
                           ", this release reads " +
                           std::to_string(schema::snapshot_format_version));
    }
    const auto payload = file.subspan(sizeof header);
    if (header.payload_bytes != payload.size()) {
        return failure(SnapshotError::truncated, "payload of " + std::to_string(payload.size()) +
                                                     " bytes where the header says " +
                                                     std::to_string(header.payload_bytes));
    }
    if (!digest_matches(header, payload)) {
        return failure(SnapshotError::checksum_mismatch,
                       "its SHA-256 is not the one in its header");
    }

    // FlatBuffers reads integers in place, so the payload needs their alignment.
    std::vector<std::uint64_t> aligned((payload.size() + sizeof(std::uint64_t) - 1) /
                                       sizeof(std::uint64_t));
    std::memcpy(aligned.data(), payload.data(), payload.size());
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(aligned.data());
    flatbuffers::Verifier verifier(bytes, payload.size(), 64, 10'000'000);
    if (payload.size() < sizeof(std::uint64_t) || !schema::VerifyPolicyBuffer(verifier)) {
        return failure(SnapshotError::malformed, "its FlatBuffer does not verify");
    }
    const std::unique_ptr<schema::PolicyT> flat(schema::GetPolicy(bytes)->UnPack());
    if (!flat->start_up || !flat->timeouts || !flat->limits || !flat->tls || !flat->default_route ||
        !flat->default_site || !flat->retry || !flat->screen) {
        return failure(SnapshotError::malformed, "a whole table is missing");
    }
    if (flat->version != header.policy_version) {
        return failure(SnapshotError::malformed,
                       "header and payload disagree about the policy's version");
    }
    try {
        return std::make_shared<const Policy>(policy_from_schema(*flat));
    } catch (const InvalidValue& invalid) {
        return failure(SnapshotError::invalid_value, invalid.text);
    }
}

std::expected<PolicyPtr, SnapshotFailure> load_snapshot(const std::string& path) {
    struct OpenFile {
        int descriptor;
        ~OpenFile() {
            if (descriptor >= 0) close(descriptor);
        }
    };
    const OpenFile file{open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    if (file.descriptor < 0) {
        return failure(errno == ENOENT ? SnapshotError::missing : SnapshotError::unreadable,
                       path + ": " + std::strerror(errno));
    }
    struct stat status{};
    if (fstat(file.descriptor, &status) != 0)
        return failure(SnapshotError::unreadable, path + ": " + std::strerror(errno));
    if (static_cast<std::uint64_t>(status.st_size) > schema::snapshot_bytes_max) {
        return failure(SnapshotError::too_large, path + " is larger than a snapshot may be");
    }
    std::vector<std::byte> bytes(static_cast<std::size_t>(status.st_size));
    std::size_t filled = 0;
    while (filled < bytes.size()) {
        const ssize_t got = read(file.descriptor, bytes.data() + filled, bytes.size() - filled);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return failure(SnapshotError::unreadable, path + ": " + std::strerror(errno));
        if (got == 0) break;
        filled += static_cast<std::size_t>(got);
    }
    bytes.resize(filled);
    auto policy = parse_snapshot(bytes);
    if (!policy) policy.error().text = path + ": " + policy.error().text;
    return policy;
}

} // namespace dataplane::policy
