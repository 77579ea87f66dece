// export.cc: messages out of a pool into files that any mail program reads.
#include "queue/tool/message_json.h"
#include "queue/tool/opened_pool.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <ostream>
#include <unistd.h>

namespace queue::tool {
namespace {

constexpr std::uint64_t told_every = 1000;

/// Whole or not at all under its name; never over a file that is there.
[[nodiscard]] std::expected<void, std::string> write_file(const std::string& path,
                                                          std::string_view bytes) {
    const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0) return std::unexpected("cannot create " + path + ": " + std::strerror(errno));
    while (!bytes.empty()) {
        const ssize_t put = ::write(file, bytes.data(), bytes.size());
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) {
            const int error = errno;
            ::close(file);
            static_cast<void>(::unlink(path.c_str()));
            return std::unexpected("cannot write " + path + ": " + std::strerror(error));
        }
        bytes.remove_prefix(static_cast<std::size_t>(put));
    }
    if (::close(file) != 0)
        return std::unexpected("cannot write " + path + ": " + std::strerror(errno));
    return {};
}

[[nodiscard]] bool same_text(std::string_view a, std::string_view b) noexcept {
    constexpr auto lower = [](char c) {
        return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    };
    return std::ranges::equal(a, b, {}, lower, lower);
}

[[nodiscard]] bool asked_for(const ExportOptions& options, const ReadMessage& message) {
    if (options.domain.empty() && options.sender.empty()) return true;
    // A filter on an envelope that cannot be read selects nothing.
    if (!message.envelope_good) return false;
    const Envelope& envelope = message.envelope;
    if (!options.sender.empty() && !same_text(options.sender, envelope.sender())) return false;
    if (options.domain.empty()) return true;
    for (std::size_t i = 0; i < envelope.recipient_count(); ++i) {
        if (same_text(options.domain, envelope.recipient_domain(i))) return true;
    }
    return false;
}

struct Tally {
    std::uint64_t written = 0, damaged = 0, unreadable = 0;
};

} // namespace

int export_messages(const ExportOptions& options, const Console& console) {
    const auto complain = [&console](const std::string& text) {
        console.err << "millrace-spool: " << text << '\n';
    };
    auto pool =
        open_pool({options.pool, options.mirror, options.key}, PoolFile::Lock::exclusive, console);
    if (!pool) {
        complain(pool.error());
        return exit_no_pool;
    }
    const bool stale = !pool->mirror.believed();
    if (!pool->mirror.text.empty()) complain(options.pool + ": " + pool->mirror.text);
    if (stale && !options.stale) {
        complain(
            "nothing was exported: with --stale this half's mail is, although some of it may have "
            "been delivered, and some is missing");
        return exit_no_pool;
    }
    std::error_code error;
    std::filesystem::create_directories(options.folder, error);
    if (error) {
        complain("cannot make the folder " + options.folder + ": " + error.message());
        return exit_no_pool;
    }
    if (pool->live == nullptr) {
        complain(pool->why_dead + "; everything is exported that has not ended for certain, which "
                                  "may include mail that was delivered");
    }
    std::vector<MessageId> ids =
        options.messages.empty() ? pool->catalogue.ids() : options.messages;
    MessageSource source = pool->source();
    Tally tally;
    for (const MessageId id : ids) {
        const StoredMessage* found = pool->catalogue.find(id);
        if (found == nullptr) {
            complain("message " + id.to_string() + " is not in the pool");
            ++tally.unreadable;
            continue;
        }
        const StoredMessage stored = pool->as_recovered(id, *found);
        const bool queued = pool->live != nullptr ? pool->live->has(id) : !stored.finished();
        // Damaged mail may be missing in the index because it is damaged.
        const bool lost = !stored.finished() && stored.record && stored.record->damaged;
        const bool named = !options.messages.empty();
        if (!queued && !lost && !options.finished && !named) continue;
        if (!stored.record) {
            if (queued || named) ++tally.unreadable;
            continue;
        }
        const ReadMessage message = source.read(id, stored);
        if (!asked_for(options, message)) continue;
        if (!message.good()) ++tally.damaged;
        const std::string base = options.folder + "/" + id.to_string();
        auto written = write_file(base + ".eml", message.content);
        if (written)
            written =
                write_file(base + ".json", dump(message_json(id, stored, message, queued)) + "\n");
        if (!written) {
            complain(written.error());
            return exit_damage;
        }
        ++tally.written;
        if (console.terminal && tally.written % told_every == 0)
            console.err << "\rexported " << tally.written << std::flush;
    }
    if (console.terminal) console.err << "\r\033[K" << std::flush;
    console.out << tally.written << " messages exported to " << options.folder << ", "
                << tally.damaged << " of them damaged, " << tally.unreadable
                << " could not be read\n";
    return tally.damaged + tally.unreadable == 0 && pool->live != nullptr && !stale ? exit_ok
                                                                                    : exit_damage;
}

} // namespace queue::tool
