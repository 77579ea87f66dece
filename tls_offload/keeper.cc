#include "tls_offload/keeper.h"

#include "dataplane/base/check.h"
#include "tls_offload/context_state.h"
#include "tls_offload/file_watch.h"
#include "tls_offload/ocsp_command.h"
#include "tls_offload/server_set.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <poll.h>
#include <thread>
#include <unistd.h>
#include <utility>

namespace tls_offload {
namespace {

using SteadyTime = std::chrono::steady_clock::time_point; // no shard: it may read a clock

constexpr std::size_t port_messages = 16;
constexpr auto concerns_interval = std::chrono::hours{24};
constexpr auto tick = std::chrono::seconds{1};

base::WallTime wall_now() {
    return std::chrono::time_point_cast<base::WallTime::duration>(std::chrono::system_clock::now());
}

std::vector<std::string> files_of(const ServerOptions& options) {
    std::vector<std::string> files{options.certificate_file, options.key_file, options.ocsp_file,
                                   options.client_ca_file, options.client_crl_file};
    for (const CertificateFiles& each : options.more)
        files.insert(files.end(), {each.certificate_file, each.key_file, each.ocsp_file});
    std::erase(files, "");
    return files;
}

std::vector<std::string> files_of(const ClientContextOptions& options) {
    std::vector<std::string> files{options.ca_file, options.ca_dir, options.certificate_file,
                                   options.key_file, options.crl_file};
    std::erase(files, "");
    return files;
}

/// A response that was good stays until its time is over, whatever becomes of its file.
void keep_good_responses(ServerMaterial& next, const ServerMaterial& old, base::WallTime now) {
    for (CertificateMaterial& each : next.certificates) {
        if (each.info.ocsp == OcspState::good || each.files.ocsp_file.empty()) continue;
        for (const CertificateMaterial& was : old.certificates) {
            const bool same = was.info.fingerprint == each.info.fingerprint &&
                              was.files.ocsp_file == each.files.ocsp_file;
            if (!same || was.ocsp_der.empty() || was.info.ocsp_next_update <= now) continue;
            each.ocsp_der = was.ocsp_der;
            each.info.ocsp = OcspState::good;
            each.info.ocsp_text = "kept from before; its file: " + each.info.ocsp_text;
            each.info.ocsp_this_update = was.info.ocsp_this_update;
            each.info.ocsp_next_update = was.info.ocsp_next_update;
        }
    }
}

} // namespace

class KeeperThread {
public:
    KeeperThread(TlsSettings first, Keeper::Log log, KeeperTimes times)
        : log_(std::move(log)), times_(times), settings_(std::move(first)),
          keys_(make_ticket_keys()), ocsp_(times.ocsp_retry, times.ocsp_limit) {}
    ~KeeperThread() {
        stop();
        CHECK(ports_.empty()); // a port that outlives its keeper would call into it
    }
    KeeperThread(const KeeperThread&) = delete;
    KeeperThread& operator=(const KeeperThread&) = delete;

    [[nodiscard]] std::string open() {
        const std::lock_guard lock(mutex_);
        read_server();
        if (server_problem_.empty()) read_client();
        watch();
        return problem();
    }

    [[nodiscard]] std::expected<void, std::string> attach(TlsPort& port) {
        const std::lock_guard lock(mutex_);
        const LibraryState& library = port.state();
        if (!server_->certificates.empty()) {
            auto set = ServerSet::build(library.openssl, *server_, library.engine);
            if (!set) return std::unexpected(set.error().text);
            port.take(TlsPort::News{std::move(*set)});
        }
        auto set = ClientSet::build(library.openssl, *client_);
        if (!set) return std::unexpected(set.error().text);
        port.take(
            TlsPort::News{TlsPort::NewClient{std::move(*set), settings_.client.session_keys_max}});
        port.take(TlsPort::News{keys_});
        port.keeper_ = this;
        ports_.push_back({&port});
        return {};
    }
    void detach(TlsPort& port) {
        const std::lock_guard lock(mutex_);
        std::erase_if(ports_, [&](const Attached& each) { return each.port == &port; });
    }

    void start() {
        CHECK(!thread_.joinable());
        stopping_ = false;
        thread_ = std::thread([this] { run(); });
    }
    void stop() {
        if (!thread_.joinable()) return;
        stopping_ = true;
        wakeup_.signal();
        thread_.join();
    }

    [[nodiscard]] std::string use(TlsSettings next) {
        const std::lock_guard lock(mutex_);
        // Also when they cannot be had now: once the files are as they should be, they are used.
        const bool server = next.server != settings_.server;
        const bool client = next.client != settings_.client;
        settings_ = std::move(next);
        if (server) read_server();
        if (client) read_client();
        watch();
        hand_out();
        return problem();
    }

    [[nodiscard]] std::string reload() {
        const std::lock_guard lock(mutex_);
        read_changed(true);
        return problem();
    }

    [[nodiscard]] std::vector<CertificateReport> certificates() const {
        const std::lock_guard lock(mutex_);
        std::vector<CertificateReport> reports;
        const base::WallTime now = wall_now();
        for (const CertificateMaterial& each : server_->certificates)
            reports.push_back({each.files, each.info, each.names, concerns(each, now)});
        return reports;
    }

private:
    struct Attached {
        TlsPort* port;
        bool server_due = false, client_due = false, keys_due = false;
    };

    // The rest of them: mutex_ held.

    [[nodiscard]] const std::string& problem() const noexcept {
        return server_problem_.empty() ? client_problem_ : server_problem_;
    }

    void read_server() {
        marks_of_server_ = marks_of(files_of(settings_.server)); // first: what changes now counts
        auto loaded = load_server_material(settings_.server, wall_now());
        if (!loaded) {
            server_problem_ = std::move(loaded.error().text);
            return;
        }
        auto next = std::make_shared<ServerMaterial>(**loaded);
        if (server_ != nullptr) keep_good_responses(*next, *server_, wall_now());
        // What a shard would find wrong is found here first.
        if (!next->certificates.empty()) {
            auto tried = ServerSet::build(nullptr, *next);
            if (!tried) {
                server_problem_ = std::move(tried.error().text);
                return;
            }
        }
        server_problem_.clear();
        server_ = std::move(next);
        for (Attached& each : ports_)
            each.server_due = true;
    }

    void read_client() {
        marks_of_client_ = marks_of(files_of(settings_.client));
        auto loaded = load_client_material(settings_.client, wall_now());
        if (!loaded) {
            client_problem_ = std::move(loaded.error().text);
            return;
        }
        client_problem_.clear();
        client_ = std::move(*loaded);
        for (Attached& each : ports_)
            each.client_due = true;
    }

    /// Reads what has changed, or everything.
    void read_changed(bool everything) {
        if (everything || marks_of(files_of(settings_.server)) != marks_of_server_) {
            read_server();
            if (server_problem_.empty()) tell_in_use();
        }
        if (everything || marks_of(files_of(settings_.client)) != marks_of_client_) {
            read_client();
            if (client_problem_.empty()) tell_concerns();
        }
        watch();
        hand_out();
    }

    void tell_in_use() {
        for (const CertificateMaterial& each : server_->certificates) {
            log_(false, "certificate_in_use",
                 each.files.certificate_file + ", " + each.info.key_type + ", SHA-256 " +
                     each.info.fingerprint);
        }
        tell_concerns();
    }

    void tell_concerns() {
        concerns_told_ = std::chrono::steady_clock::now();
        const base::WallTime now = wall_now();
        for (const CertificateMaterial& each : server_->certificates) {
            for (const std::string& text : concerns(each, now))
                log_(true, "certificate", text);
        }
        for (const std::string& text :
             concerns(server_->options.client_crl_file, server_->revocation_lists, now))
            log_(true, "revocation_list", text);
        for (const std::string& text :
             concerns(client_->options.crl_file, client_->revocation_lists, now))
            log_(true, "revocation_list", text);
    }

    void watch() {
        std::vector<std::string> files = files_of(settings_.server);
        const std::vector<std::string> more = files_of(settings_.client);
        files.insert(files.end(), more.begin(), more.end());
        watch_.watch(files);
    }

    /// Builds what each shard is due, and posts it. What a full mailbox refuses is due again.
    void hand_out() {
        for (Attached& each : ports_) {
            const LibCtxPtr& library = each.port->state().openssl;
            if (each.server_due && !server_->certificates.empty()) {
                auto set = ServerSet::build(library, *server_, each.port->state().engine);
                if (set && each.port->inbox_.post(TlsPort::News{std::move(*set)}))
                    each.server_due = false;
            }
            if (each.client_due) {
                auto set = ClientSet::build(library, *client_);
                TlsPort::NewClient fresh{set ? std::move(*set) : nullptr,
                                         client_->options.session_keys_max};
                if (fresh.set != nullptr && each.port->inbox_.post(TlsPort::News{std::move(fresh)}))
                    each.client_due = false;
            }
            if (each.keys_due && each.port->inbox_.post(TlsPort::News{keys_}))
                each.keys_due = false;
        }
    }

    /// Whether a response in use has run out since its certificate was read.
    [[nodiscard]] bool response_ran_out() const {
        const base::WallTime now = wall_now();
        return std::ranges::any_of(server_->certificates, [&](const CertificateMaterial& each) {
            return !each.ocsp_der.empty() && each.info.ocsp_next_update != base::WallTime{} &&
                   each.info.ocsp_next_update <= now;
        });
    }

    void run() {
        SteadyTime rotate_at = std::chrono::steady_clock::now() + times_.ticket_rotation;
        SteadyTime look_at = std::chrono::steady_clock::now() + times_.files_look;
        SteadyTime settle_at = SteadyTime::max();
        {
            const std::lock_guard lock(mutex_);
            tell_in_use();
        }
        while (!stopping_) {
            const SteadyTime now = std::chrono::steady_clock::now();
            {
                const std::lock_guard lock(mutex_);
                if (now >= rotate_at) {
                    keys_ = rotated(*keys_, ticket_keys_previous_max);
                    for (Attached& each : ports_)
                        each.keys_due = true;
                    rotate_at = now + times_.ticket_rotation;
                }
                if (now >= settle_at || now >= look_at) {
                    look(now);
                    settle_at = SteadyTime::max();
                    // A pair that does not fit is looked at again when that becomes news.
                    look_at = now + (misfit_since_ != SteadyTime{} && told_.empty()
                                         ? std::min(times_.misfit_grace, times_.files_look)
                                         : times_.files_look);
                }
                if (response_ran_out()) read_server();
                if (now - concerns_told_ >= concerns_interval) tell_concerns();
                if (const std::string told =
                        ocsp_.step(settings_.ocsp_command, server_->certificates, now, wall_now());
                    !told.empty()) {
                    log_(true, "ocsp_command", told);
                }
                hand_out();
            }
            const auto until =
                std::min({look_at, rotate_at, settle_at, now + std::chrono::seconds{tick}});
            // From the first event on: a folder in which there is always something going on must
            // not put the look off for ever.
            if (sleep(until) && settle_at == SteadyTime::max())
                settle_at = std::chrono::steady_clock::now() + times_.settle;
        }
    }

    void look(SteadyTime now) {
        read_changed(false);
        if (problem().empty()) {
            misfit_since_ = {};
            told_.clear();
            return;
        }
        // The other file of the pair may be on its way: it is news when it does not come.
        if (misfit_since_ == SteadyTime{}) misfit_since_ = now;
        if (now - misfit_since_ < times_.misfit_grace || problem() == told_) return;
        log_(true, "certificates_kept", problem());
        told_ = problem();
    }

    /// Waits for an event or the time. Whether a watched folder has changed.
    [[nodiscard]] bool sleep(SteadyTime until) {
        wakeup_.will_sleep();
        std::array<pollfd, 2> waits{
            {{wakeup_.descriptor(), POLLIN, 0}, {watch_.descriptor(), POLLIN, 0}}};
        const auto left =
            std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
        const int timeout_ms =
            stopping_ ? 0 : static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, 60'000));
        const int ready = poll(waits.data(), waits.size(), timeout_ms);
        wakeup_.awake();
        if (ready <= 0) return false;
        if (waits[0].revents != 0) {
            std::uint64_t signals = 0;
            static_cast<void>(!read(wakeup_.descriptor(), &signals, sizeof signals));
        }
        return waits[1].revents != 0 && watch_.drain();
    }

    Keeper::Log log_;
    KeeperTimes times_;
    mutable std::mutex mutex_; // everything below it
    TlsSettings settings_;
    ServerMaterialPtr server_;
    ClientMaterialPtr client_;
    TicketKeysPtr keys_;
    FileMarks marks_of_server_, marks_of_client_;
    std::string server_problem_, client_problem_; // of the last reading; empty: it is in use
    FileWatch watch_;
    OcspCommand ocsp_;
    std::vector<Attached> ports_;
    SteadyTime misfit_since_{}, concerns_told_{};
    std::string told_;

    std::thread thread_;
    std::atomic<bool> stopping_{false};
    base::Wakeup wakeup_;
};

TlsPort::TlsPort(base::Loop& loop, base::Wakeup& shard)
    : library_(loop),
      inbox_(
          shard, port_messages,
          [](void* self, News&& news) { static_cast<TlsPort*>(self)->take(std::move(news)); },
          this) {}

TlsPort::~TlsPort() {
    if (keeper_ != nullptr) keeper_->detach(*this);
}

const LibraryState& TlsPort::state() const noexcept {
    return *library_.state_;
}

void TlsPort::take(News&& news) {
    if (auto* set = std::get_if<std::unique_ptr<ServerSet>>(&news)) {
        server_.emplace(ServerContext{
            base::Ref<ServerState>{new ServerState{library_.state_, std::move(*set)}}});
    } else if (auto* client = std::get_if<NewClient>(&news)) {
        // Its sessions begin anew: those of before were made under other trust.
        client_.emplace(ClientContext{base::Ref<ClientState>{
            new ClientState{library_.state_, std::move(client->set), client->session_keys_max}}});
    } else if (auto* keys = std::get_if<TicketKeysPtr>(&news)) {
        library_.use_ticket_keys(std::move(*keys));
    }
}

Keeper::Keeper(std::unique_ptr<KeeperThread> thread) noexcept : thread_(std::move(thread)) {}
Keeper::~Keeper() = default;

std::expected<std::unique_ptr<Keeper>, std::string> Keeper::open(TlsSettings first, Log log,
                                                                 KeeperTimes times) {
    auto thread = std::make_unique<KeeperThread>(std::move(first), std::move(log), times);
    std::string problem = thread->open();
    if (!problem.empty()) return std::unexpected(std::move(problem));
    return std::unique_ptr<Keeper>{new Keeper{std::move(thread)}};
}

std::expected<void, std::string> Keeper::attach(TlsPort& port) {
    return thread_->attach(port);
}
void Keeper::start() {
    thread_->start();
}
void Keeper::stop() {
    thread_->stop();
}
std::string Keeper::use(TlsSettings next) {
    return thread_->use(std::move(next));
}
std::string Keeper::reload() {
    return thread_->reload();
}
std::vector<CertificateReport> Keeper::certificates() const {
    return thread_->certificates();
}

} // namespace tls_offload
