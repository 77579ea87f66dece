#include "dataplane/delivery/unbound_resolver.h"

#include "dataplane/base/check.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <list>
#include <poll.h>
#include <span>
#include <stdexcept>
#include <thread>
#include <unbound.h>
#include <unistd.h>
#include <utility>

namespace dataplane::delivery {
namespace {

constexpr int class_in = 1;

struct UbContextDelete {
    void operator()(ub_ctx* context) const noexcept { ub_ctx_delete(context); }
};
using UbContext = std::unique_ptr<ub_ctx, UbContextDelete>;
struct UbResultFree {
    void operator()(ub_result* result) const noexcept { ub_resolve_free(result); }
};
using UbResult = std::unique_ptr<ub_result, UbResultFree>;

void require(int result, const std::string& what) {
    if (result != 0) throw std::runtime_error("libunbound: " + what + ": " + ub_strerror(result));
}

[[nodiscard]] UbContext make_context(const DnsOptions& options) {
    UbContext context{ub_ctx_create()};
    if (context == nullptr) throw std::runtime_error("libunbound: out of memory");
    // Resolvers on this machine are a usual set-up, and unbound spurns them unless told.
    require(ub_ctx_set_option(context.get(), "do-not-query-localhost:", "no"),
            "do-not-query-localhost");
    if (options.dnssec) {
        if (access(options.trust_anchor_file.c_str(), R_OK) != 0) {
            throw std::runtime_error("DNSSEC trust anchor: " + options.trust_anchor_file + ": " +
                                     std::strerror(errno));
        }
        require(ub_ctx_add_ta_file(context.get(), options.trust_anchor_file.c_str()),
                options.trust_anchor_file);
    } else {
        require(ub_ctx_set_option(context.get(), "module-config:", "iterator"), "module-config");
    }
    if (options.servers.empty()) {
        // Without the file unbound asks the root servers itself, which is as good.
        static_cast<void>(ub_ctx_resolvconf(context.get(), nullptr));
    }
    for (const std::string& server : options.servers)
        require(ub_ctx_set_fwd(context.get(), server.c_str()), server);
    static_cast<void>(
        ub_ctx_hosts(context.get(), nullptr)); // names of /etc/hosts, where there is one
    require(ub_ctx_async(context.get(), 1), "ub_ctx_async"); // a thread, not a fork
    return context;
}

/// A name as it stands in RDATA, without compression. False: not a host name, or cut short.
[[nodiscard]] bool parse_name(std::span<const std::uint8_t> wire, std::string& name) {
    name.clear();
    std::size_t at = 0;
    for (;;) {
        if (at >= wire.size()) return false;
        const std::size_t label_bytes = wire[at++];
        if (label_bytes == 0) return true;
        if (label_bytes > 63 || at + label_bytes > wire.size()) return false;
        if (!name.empty()) name += '.';
        for (const std::uint8_t byte : wire.subspan(at, label_bytes)) {
            const bool upper = byte >= 'A' && byte <= 'Z';
            if (byte <= 0x20 || byte >= 0x7f || byte == '.')
                return false; // would read as another name
            name += static_cast<char>(upper ? byte - 'A' + 'a' : byte);
        }
        at += label_bytes;
    }
}

[[nodiscard]] DnsAnswer parse(std::uint64_t id, DnsType type, int error, const ub_result* result) {
    DnsAnswer answer;
    answer.id = id;
    if (error != 0 || result == nullptr || result->bogus) return answer;
    answer.ttl_s = result->ttl > 0 ? static_cast<std::uint32_t>(result->ttl) : 0;
    answer.secure = result->secure != 0;
    if (result->nxdomain) {
        answer.status = DnsAnswer::Status::no_such_domain;
        return answer;
    }
    if (result->rcode != 0) return answer;
    answer.status = result->havedata ? DnsAnswer::Status::data : DnsAnswer::Status::no_data;
    if (!result->havedata) return answer;
    for (int i = 0; result->data[i] != nullptr; ++i) {
        const std::span rdata{reinterpret_cast<const std::uint8_t*>(result->data[i]),
                              static_cast<std::size_t>(result->len[i])};
        if (type == DnsType::mx) {
            MxRecord record;
            if (rdata.size() < 3 || !parse_name(rdata.subspan(2), record.host)) continue;
            record.preference = static_cast<std::uint16_t>(rdata[0] << 8 | rdata[1]);
            answer.mx.push_back(std::move(record));
        } else if (type == DnsType::a && rdata.size() == 4) {
            answer.addresses.push_back(
                base::IpAddress::v4({rdata[0], rdata[1], rdata[2], rdata[3]}));
        } else if (type == DnsType::aaaa && rdata.size() == 16) {
            std::array<std::uint8_t, 16> bytes;
            std::ranges::copy(rdata, bytes.begin());
            answer.addresses.push_back(base::IpAddress::v6(bytes));
        } else if (type == DnsType::tlsa && rdata.size() >= 3 &&
                   rdata.size() <= tlsa_bytes_max) { // RFC 6698 §2.1
            answer.tlsa.push_back({rdata[0], rdata[1], rdata[2], {rdata.begin() + 3, rdata.end()}});
        }
        if (answer.tlsa.size() >= tlsa_records_max || answer.mx.size() >= mx_hosts_max ||
            answer.addresses.size() >= addresses_per_host_max)
            break;
    }
    // Records were there and none could be read: not the same as a domain without records.
    if (answer.mx.empty() && answer.addresses.empty() && answer.tlsa.empty())
        answer.status = DnsAnswer::Status::failed;
    return answer;
}

} // namespace

// ---- the service's side

struct DnsService::Channel {
    base::SpscRing<DnsQuestion> questions{dns_outstanding_max};
    std::atomic<base::Mailbox<DnsAnswer>*> answers{
        nullptr}; // the shard's; there before its first question
};

class DnsService::Worker {
public:
    Worker(const DnsOptions& options, std::vector<Channel*> channels)
        : channels_(std::move(channels)), context_(make_context(options)),
          thread_([this] { work(); }) {}
    ~Worker() {
        stopped_.store(true, std::memory_order_relaxed);
        wakeup.signal();
        thread_.join();
    }
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;

    base::Wakeup wakeup;

private:
    struct Open { // one question in unbound's hands, which knows it by its address
        Worker* worker;
        base::Mailbox<DnsAnswer>* answers;
        std::uint64_t id;
        DnsType type;
        std::list<Open>::iterator self;
    };
    static void deliver(base::Mailbox<DnsAnswer>& answers, DnsAnswer&& answer) {
        CHECK(answers.post(
            std::move(answer))); // as large as all the questions its shard may have open
    }
    static void on_result(void* data, int error, ub_result* raw) {
        const UbResult result{raw};
        const Open& open = *static_cast<Open*>(data);
        deliver(*open.answers, parse(open.id, open.type, error, result.get()));
        open.worker->open_.erase(open.self);
    }
    void work() {
        while (!stopped_.load(std::memory_order_relaxed)) {
            start_questions();
            wakeup.will_sleep();
            const bool more =
                std::ranges::any_of(channels_, [](Channel* c) { return c->questions.size() != 0; });
            if (!more && !stopped_.load(std::memory_order_relaxed)) {
                std::array<pollfd, 2> waits{pollfd{.fd = ub_fd(context_.get()), .events = POLLIN},
                                            pollfd{.fd = wakeup.descriptor(), .events = POLLIN}};
                static_cast<void>(poll(waits.data(), waits.size(), -1));
                std::uint64_t count = 0;
                if (waits[1].revents != 0)
                    static_cast<void>(!read(wakeup.descriptor(), &count, sizeof count));
            }
            wakeup.awake();
            ub_process(context_.get());
        }
    }
    void start_questions() {
        for (Channel* channel : channels_) {
            while (DnsQuestion* question = channel->questions.front()) {
                auto* answers = channel->answers.load(std::memory_order_acquire);
                Open& open = open_.emplace_front(this, answers, question->id, question->type);
                open.self = open_.begin();
                const int type = static_cast<int>(question->type);
                const int failed = ub_resolve_async(context_.get(), question->name.c_str(), type,
                                                    class_in, &open, &Worker::on_result, nullptr);
                if (failed != 0) on_result(&open, failed, nullptr);
                channel->questions.release();
            }
        }
    }

    std::vector<Channel*> channels_;
    std::list<Open> open_;
    UbContext context_;
    std::atomic<bool> stopped_{false};
    std::thread thread_;
};

DnsService::DnsService(DnsOptions options) : options_(std::move(options)) {
    CHECK(options_.shards > 0);
    for (unsigned shard = 0; shard < options_.shards; ++shard)
        channels_.push_back(std::make_unique<Channel>());
    const unsigned threads = std::clamp(options_.threads, 1U, options_.shards);
    for (unsigned thread = 0; thread < threads; ++thread) {
        std::vector<Channel*> mine;
        for (unsigned shard = thread; shard < options_.shards; shard += threads)
            mine.push_back(channels_[shard].get());
        workers_.push_back(std::make_unique<Worker>(options_, std::move(mine)));
    }
}

DnsService::~DnsService() = default;
void DnsService::stop() noexcept {
    workers_.clear();
}

void DnsService::attach(unsigned shard, base::Mailbox<DnsAnswer>& answers) noexcept {
    CHECK(shard < channels_.size() && channels_[shard]->answers.load() == nullptr);
    channels_[shard]->answers.store(&answers, std::memory_order_release);
}

bool DnsService::ask(unsigned shard, DnsQuestion&& question) {
    if (workers_.empty()) return false; // stopped
    if (!channels_[shard]->questions.push(std::move(question))) return false;
    workers_[shard % workers_.size()]->wakeup.signal();
    return true;
}

// ---- a shard's side

struct UnboundResolver::Entry {
    Kind kind;
    std::string name;
    unsigned open = 0; // questions without an answer
    base::TimePoint valid_until{};
    std::uint32_t ttl_s = 0; // the least of the answers so far
    bool failed = false, no_such_domain = false;
    bool secure = true; // all answers so far are
    std::vector<MxRecord> records;
    std::vector<tls_offload::TlsaRecord> tlsa_records;
    std::vector<base::IpAddress> found;
    MxResult mx{std::unexpect, ResolveError::temporary};
    AddressResult addresses{std::unexpect, ResolveError::temporary};
    TlsaResult tlsa{std::unexpect, ResolveError::temporary};
    base::WaitQueue waiting{"dns"};
};

UnboundResolver::UnboundResolver(base::Loop& loop, base::Wakeup& wakeup, DnsService& service,
                                 unsigned shard, telemetry::Stats* stats)
    : loop_(loop), service_(service), shard_(shard), stats_(stats),
      answers_(wakeup, dns_outstanding_max, &UnboundResolver::on_answer, this) {
    service_.attach(shard_, answers_);
}
UnboundResolver::~UnboundResolver() = default;

bool UnboundResolver::ask(Entry& entry, DnsType type) {
    if (open_.size() >= dns_outstanding_max) return false;
    const std::uint64_t id = next_id_++;
    if (!service_.ask(shard_, {id, type, entry.name})) return false;
    ++entry.open;
    if (stats_ != nullptr) stats_->add(telemetry::Counter::dns_queries);
    return true;
}

UnboundResolver::EntryPtr UnboundResolver::look_up(Kind kind, const std::string& name) {
    std::string key;
    key.reserve(name.size() + 1);
    key += static_cast<char>(kind);
    key += name;
    auto known = entries_.find(key);
    if (known != entries_.end()) {
        const EntryPtr entry = *known->second;
        order_.splice(order_.begin(), order_, known->second);
        if (entry->open > 0 || entry->valid_until > loop_.now()) return entry;
        order_.erase(known->second);
        entries_.erase(known);
    }
    auto entry = std::make_shared<Entry>();
    entry->kind = kind;
    entry->name = name;
    entry->ttl_s = static_cast<std::uint32_t>(dns_ttl_max.count());
    const std::uint64_t first_id = next_id_;
    const DnsType type = kind == Kind::mx     ? DnsType::mx
                         : kind == Kind::tlsa ? DnsType::tlsa
                                              : DnsType::a;
    const bool asked = ask(*entry, type);
    if (!asked) return nullptr;
    open_.emplace(first_id, entry);
    if (kind == Kind::addresses) {
        const std::uint64_t second_id = next_id_;
        if (ask(*entry, DnsType::aaaa)) {
            open_.emplace(second_id, entry);
        } else {
            entry->failed =
                true; // half an answer: used when it has an address, and not called final
        }
    }
    order_.push_front(entry);
    entries_.emplace(std::move(key), order_.begin());
    trim();
    return entry;
}

/// The least recently used entries make room; one with open questions is younger than any limit.
void UnboundResolver::trim() {
    while (entries_.size() > dns_cache_entries_max) {
        const EntryPtr oldest = order_.back();
        std::string key;
        key += static_cast<char>(oldest->kind);
        key += oldest->name;
        entries_.erase(key);
        order_.pop_back();
    }
}

void UnboundResolver::on_answer(void* context, DnsAnswer&& answer) {
    static_cast<UnboundResolver*>(context)->take(std::move(answer));
}

void UnboundResolver::take(DnsAnswer&& answer) {
    const auto open = open_.find(answer.id);
    CHECK(open != open_.end());
    const EntryPtr entry = std::move(open->second);
    open_.erase(open);
    CHECK(entry->open > 0);
    --entry->open;
    switch (answer.status) {
    case DnsAnswer::Status::failed:
        entry->failed = true;
        break;
    case DnsAnswer::Status::no_such_domain:
        entry->no_such_domain = true;
        [[fallthrough]];
    case DnsAnswer::Status::no_data:
    case DnsAnswer::Status::data:
        entry->ttl_s = std::min(entry->ttl_s, answer.ttl_s);
        break;
    }
    // Of a host with addresses of one family only, the other's absence need not be signed.
    const bool counts = entry->kind != Kind::addresses || !answer.addresses.empty();
    if (counts && !answer.secure) entry->secure = false;
    std::ranges::move(answer.tlsa, std::back_inserter(entry->tlsa_records));
    std::ranges::move(answer.mx, std::back_inserter(entry->records));
    std::ranges::move(answer.addresses, std::back_inserter(entry->found));
    if (entry->open == 0) conclude(*entry);
}

void UnboundResolver::conclude(Entry& entry) {
    const auto positive = std::clamp(std::chrono::seconds{entry.ttl_s}, dns_ttl_min, dns_ttl_max);
    const auto negative =
        std::clamp(std::chrono::seconds{entry.ttl_s}, dns_negative_ttl_min, dns_negative_ttl_max);
    entry.valid_until = loop_.now() + positive;
    if (!entry.found.empty()) {
        auto set = std::make_shared<AddressSet>();
        std::ranges::stable_partition(entry.found,
                                      [](const base::IpAddress& ip) { return !ip.is_v6(); });
        set->addresses = std::move(entry.found);
        set->valid_until = entry.valid_until;
        set->secure = entry.secure;
        entry.addresses = std::move(set);
    } else if (entry.failed) {
        entry.valid_until = loop_.now() + dns_failure_ttl;
        entry.mx = std::unexpected(ResolveError::temporary);
        entry.addresses = std::unexpected(ResolveError::temporary);
        entry.tlsa = std::unexpected(ResolveError::temporary);
        if (stats_ != nullptr) stats_->add(telemetry::Counter::dns_failures);
    } else if (entry.kind == Kind::tlsa) {
        auto set = std::make_shared<TlsaSet>();
        set->records = std::move(entry.tlsa_records);
        set->secure = entry.secure;
        if (set->records.empty()) entry.valid_until = loop_.now() + negative;
        set->valid_until = entry.valid_until;
        entry.tlsa = std::move(set);
    } else if (entry.no_such_domain) {
        entry.valid_until = loop_.now() + negative;
        entry.mx = std::unexpected(ResolveError::no_such_domain);
        entry.addresses = std::unexpected(ResolveError::no_such_domain);
    } else if (entry.kind == Kind::mx) {
        if (entry.records.empty()) entry.valid_until = loop_.now() + negative;
        auto set = interpret_mx(entry.name, std::move(entry.records));
        if (set) {
            set->valid_until = entry.valid_until;
            set->secure = entry.secure;
            entry.mx = std::make_shared<const MxSet>(std::move(*set));
        } else {
            entry.mx = std::unexpected(set.error());
        }
    } else {
        entry.valid_until = loop_.now() + negative;
        entry.addresses = std::unexpected(ResolveError::no_data);
    }
    entry.waiting.wake_all();
}

base::Task<base::Wake> UnboundResolver::settled(EntryPtr entry, base::Deadline deadline) {
    while (entry->open > 0) {
        const base::Wake why = co_await entry->waiting.wait(loop_, deadline);
        if (why != base::Wake::event) co_return why;
    }
    co_return base::Wake::event;
}

base::Task<MxResult> UnboundResolver::mx(std::string domain, base::Deadline deadline) {
    const EntryPtr entry = look_up(Kind::mx, domain);
    if (entry == nullptr) co_return std::unexpected(ResolveError::temporary);
    const base::Wake why = co_await settled(entry, deadline);
    if (why == base::Wake::cancelled) co_return std::unexpected(ResolveError::cancelled);
    if (why == base::Wake::timed_out) co_return std::unexpected(ResolveError::temporary);
    co_return entry->mx;
}

base::Task<AddressResult> UnboundResolver::addresses(std::string host, base::Deadline deadline) {
    const EntryPtr entry = look_up(Kind::addresses, host);
    if (entry == nullptr) co_return std::unexpected(ResolveError::temporary);
    const base::Wake why = co_await settled(entry, deadline);
    if (why == base::Wake::cancelled) co_return std::unexpected(ResolveError::cancelled);
    if (why == base::Wake::timed_out) co_return std::unexpected(ResolveError::temporary);
    co_return entry->addresses;
}

base::Task<TlsaResult> UnboundResolver::tlsa(std::string name, base::Deadline deadline) {
    const EntryPtr entry = look_up(Kind::tlsa, name);
    if (entry == nullptr) co_return std::unexpected(ResolveError::temporary);
    const base::Wake why = co_await settled(entry, deadline);
    if (why == base::Wake::cancelled) co_return std::unexpected(ResolveError::cancelled);
    if (why == base::Wake::timed_out) co_return std::unexpected(ResolveError::temporary);
    co_return entry->tlsa;
}

} // namespace dataplane::delivery
