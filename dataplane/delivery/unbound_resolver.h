// unbound_resolver.h: the Resolver that asks libunbound, on threads of its own.
//
// Scope      DnsService: resolver threads, each with one libunbound context that all its shards
//            share, cache included. UnboundResolver: a shard's side of it, with a cache of answers
//            in the form delivery wants them. Equal questions that are open at once are asked once.
// Owns       The service: threads, contexts, one ring of questions per shard. The resolver: its
//            mailbox of answers and dns_cache_entries_max entries, the least recently used of which
//            go first.
// Threading  The service is made and stopped by main(); a resolver is bound to its shard. Questions
//            go through SPSC rings, answers come back by Mailbox: the shard drains inbox() each
//            turn.
// Failure    Start-up throws std::runtime_error. Afterwards ResolveError; a lost thread is a CHECK.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/mailbox.h"
#include "dataplane/base/spsc_ring.h"
#include "dataplane/base/wait.h"
#include "dataplane/delivery/limits.h"
#include "dataplane/delivery/resolver.h"
#include "dataplane/policy/policy.h"
#include "dataplane/telemetry/stats.h"

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace dataplane::delivery {

struct DnsOptions {
    std::vector<std::string> servers; // "127.0.0.1@5353"; empty: /etc/resolv.conf
    unsigned threads = 1;
    unsigned shards = 1;
    bool dnssec = false;
    std::string trust_anchor_file = "/usr/share/dns/root.key"; // read only with dnssec
};

enum class DnsType : std::uint16_t { a = 1, mx = 15, aaaa = 28, tlsa = 52 };

struct DnsQuestion {
    std::uint64_t id = 0;
    DnsType type = DnsType::a;
    std::string name;
};

struct DnsAnswer {
    enum class Status : std::uint8_t { data, no_data, no_such_domain, failed };
    std::uint64_t id = 0;
    Status status = Status::failed;
    std::uint32_t ttl_s = 0;
    bool secure = false; // DNSSEC; an answer that should be and is not is `failed`
    std::vector<MxRecord> mx;
    std::vector<base::IpAddress> addresses;
    std::vector<tls_offload::TlsaRecord> tlsa;
};

class DnsService {
public:
    explicit DnsService(DnsOptions options);
    ~DnsService(); // stops
    DnsService(const DnsService&) = delete;
    DnsService& operator=(const DnsService&) = delete;

    /// Ends the threads; open questions stay unanswered. Before the resolvers are destroyed.
    void stop() noexcept;

private:
    friend class UnboundResolver;
    struct Channel; // of one shard
    class Worker;
    void attach(unsigned shard, base::Mailbox<DnsAnswer>& answers) noexcept;
    [[nodiscard]] bool ask(unsigned shard, DnsQuestion&& question);

    DnsOptions options_;
    std::vector<std::unique_ptr<Channel>> channels_;
    std::vector<std::unique_ptr<Worker>> workers_;
};

class UnboundResolver final : public Resolver {
public:
    /// \param wakeup  of this shard's driver, which must drain inbox()
    /// \param shard   below the service's count, and nobody else's
    UnboundResolver(base::Loop& loop, base::Wakeup& wakeup, DnsService& service, unsigned shard,
                    telemetry::Stats* stats = nullptr);
    ~UnboundResolver() override;

    [[nodiscard]] base::Inbox& inbox() noexcept { return answers_; }
    [[nodiscard]] std::size_t cached_count() const noexcept { return entries_.size(); }
    [[nodiscard]] std::uint64_t question_count() const noexcept { return next_id_; }

    base::Task<MxResult> mx(std::string domain, base::Deadline deadline) override;
    base::Task<AddressResult> addresses(std::string host, base::Deadline deadline) override;
    base::Task<TlsaResult> tlsa(std::string name, base::Deadline deadline) override;

private:
    enum class Kind : char { mx = 'm', addresses = 'a', tlsa = 't' };
    struct Entry;
    // Shared with the coroutines that wait for it: the cache may drop it before they have all
    // resumed.
    using EntryPtr = std::shared_ptr<Entry>;

    /// The entry of this question, asked for when it is new or stale; nullptr when too much is
    /// open.
    [[nodiscard]] EntryPtr look_up(Kind kind, const std::string& name);
    [[nodiscard]] bool ask(Entry& entry, DnsType type);
    /// Waits until all its questions are answered.
    base::Task<base::Wake> settled(EntryPtr entry, base::Deadline deadline);
    static void on_answer(void* context, DnsAnswer&& answer);
    void take(DnsAnswer&& answer);
    void conclude(Entry& entry);
    void trim();

    base::Loop& loop_;
    DnsService& service_;
    unsigned shard_;
    telemetry::Stats* stats_;
    base::Mailbox<DnsAnswer> answers_;
    std::list<EntryPtr> order_; // most recently used first
    policy::TextMap<std::list<EntryPtr>::iterator> entries_;
    std::unordered_map<std::uint64_t, EntryPtr> open_; // by question id
    std::uint64_t next_id_ = 0;
};

} // namespace dataplane::delivery
