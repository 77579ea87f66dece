// keeper.h: keeps every shard's certificates, trust and ticket keys as new as their files.
//
// Scope      Reads the files, builds each shard's sets away from its thread, and hands them over.
//            Looks again when a file changes (inotify, and every files_look), when the settings do,
//            and when an operator asks. Rotates the ticket keys. Runs the operator's command that
//            fetches OCSP responses.
// Owns       Its thread, the bytes of what is in use, and the watches. A TlsPort is its shard's.
// Threading  attach(): the shard's own thread, before its loop runs. use(), reload() and
//            certificates(): any thread but a shard, one at a time. Destroy it after the ports.
// Failure    A file that is missing, broken or does not fit leaves what is in use alone, and is
//            told through Log and as the result. Only open() gives up.
//
// Files are found to have changed by what they are, not by events: an event only makes it look. So
// a file replaced by rename, a symbolic link that now points elsewhere (as ACME clients leave them)
// and a write in place are all the same. Certificate and key change one after the other; between the
// two they do not fit, which is told only when it lasts.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/mailbox.h"
#include "tls_offload/server_set.h"
#include "tls_offload/tls_context.h"

#include <chrono>
#include <expected>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace tls_offload {

struct TlsSettings {
    ServerOptions server; // without any certificate no TLS is offered
    ClientContextOptions client;
    // Run with the certificate's file and the OCSP file as arguments when a response is missing, or
    // half its time is over. Empty: none.
    std::string ocsp_command;
    bool operator==(const TlsSettings&) const = default;
};

struct KeeperTimes {
    std::chrono::milliseconds settle{500};         // quiet after a change before it is read
    std::chrono::milliseconds files_look{30'000};  // where inotify sees nothing: network folders
    std::chrono::milliseconds misfit_grace{5'000}; // half-replaced pairs are no news for so long
    std::chrono::seconds ticket_rotation{tls_offload::ticket_rotation};
    std::chrono::seconds ocsp_retry{600}; // between two runs of the command for one certificate
    std::chrono::seconds ocsp_limit{60};  // for one run
};

class Keeper;

/// One shard's end: its library, and its contexts, which are replaced in place.
class TlsPort {
public:
    TlsPort(base::Loop& loop, base::Wakeup& shard);
    ~TlsPort();
    TlsPort(const TlsPort&) = delete;
    TlsPort& operator=(const TlsPort&) = delete;

    /// The shard adds it to what it looks into each turn.
    [[nodiscard]] base::Inbox& inbox() noexcept { return inbox_; }
    [[nodiscard]] TlsLibrary& library() noexcept { return library_; }
    /// Null when there was no certificate at attach(). Otherwise valid as long as the port.
    [[nodiscard]] ServerContext* server() noexcept { return server_ ? &*server_ : nullptr; }
    [[nodiscard]] ClientContext* client() noexcept { return client_ ? &*client_ : nullptr; }

private:
    friend class Keeper;
    friend class KeeperThread;
    struct NewClient {
        std::unique_ptr<ClientSet> set;
        std::size_t session_keys_max = 0;
    };
    using News = std::variant<std::monostate, std::unique_ptr<ServerSet>, NewClient, TicketKeysPtr>;
    void take(News&& news);
    [[nodiscard]] const LibraryState& state() const noexcept;

    class KeeperThread* keeper_ = nullptr;
    TlsLibrary library_;
    std::optional<ServerContext> server_;
    std::optional<ClientContext> client_;
    base::Mailbox<News> inbox_;
};

/// A certificate in use, for people.
struct CertificateReport {
    CertificateFiles files;
    CertificateInfo info;
    std::vector<std::string> names; // served by SNI
    std::vector<std::string> concerns;
};

class Keeper {
public:
    using Log = std::function<void(bool trouble, std::string_view event, std::string_view text)>;

    /// Reads the first set; a sentence for the operator when that fails.
    [[nodiscard]] static std::expected<std::unique_ptr<Keeper>, std::string>
    open(TlsSettings first, Log log, KeeperTimes times = {});
    ~Keeper(); // stops
    Keeper(const Keeper&) = delete;
    Keeper& operator=(const Keeper&) = delete;

    /// Fills the port's contexts, and keeps them new until the port dies.
    [[nodiscard]] std::expected<void, std::string> attach(TlsPort& port);
    void start();
    void stop();

    /// Takes over new settings. Returns "" or why what was in use stays.
    [[nodiscard]] std::string use(TlsSettings next);
    /// Reads all files again.
    [[nodiscard]] std::string reload();
    [[nodiscard]] std::vector<CertificateReport> certificates() const;

private:
    explicit Keeper(std::unique_ptr<KeeperThread> thread) noexcept;
    std::unique_ptr<KeeperThread> thread_;
};

} // namespace tls_offload
