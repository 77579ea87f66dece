#include "tests/sim/fittings.h"

#include <algorithm>

namespace tests::sim {

using base::Deadline;
using base::Task;
using dataplane::delivery::AddressResult;
using dataplane::delivery::MxResult;
using dataplane::delivery::ResolveError;
using dataplane::policy::AuthVerdict;

// ---- names

ZoneResolver::ZoneResolver(base::Loop& loop, const Setting& setting)
    : loop_(loop), setting_(setting), random_(setting.seed, 4) {}

Task<std::optional<ResolveError>> ZoneResolver::take_time(Deadline deadline) {
    const auto time =
        random_.time(milliseconds{0}, milliseconds{troubled && random_.chance(3) ? 40'000 : 30});
    const base::TimePoint ready = loop_.now() + time;
    const auto woke = co_await base::sleep_until(loop_, deadline.sooner(ready));
    if (woke == base::Wake::cancelled) co_return ResolveError::cancelled;
    if (loop_.now() < ready || (troubled && random_.chance(5))) co_return ResolveError::temporary;
    co_return std::nullopt;
}

Task<MxResult> ZoneResolver::mx(std::string domain, Deadline deadline) {
    const auto trouble = co_await take_time(deadline);
    if (trouble) co_return std::unexpected(*trouble);
    const auto known = std::ranges::find(setting_.domains, domain, &DomainSetting::name);
    if (known == setting_.domains.end() || known->kind == DomainSetting::Kind::missing) {
        co_return std::unexpected(ResolveError::no_such_domain);
    }
    std::vector<dataplane::delivery::MxRecord> records;
    if (known->kind == DomainSetting::Kind::null_mx) records.push_back({0, ""});
    if (known->kind == DomainSetting::Kind::mx) {
        for (const HostSetting& host : setting_.providers[known->provider])
            records.push_back({host.preference, host.name});
    }
    auto set = dataplane::delivery::interpret_mx(domain, std::move(records));
    if (!set) co_return std::unexpected(set.error());
    set->valid_until = loop_.now() + std::chrono::minutes{5};
    co_return std::make_shared<const dataplane::delivery::MxSet>(std::move(*set));
}

Task<AddressResult> ZoneResolver::addresses(std::string host, Deadline deadline) {
    const auto trouble = co_await take_time(deadline);
    if (trouble) co_return std::unexpected(*trouble);
    for (const auto& provider : setting_.providers) {
        const auto known = std::ranges::find(provider, host, &HostSetting::name);
        if (known == provider.end()) continue;
        auto set = std::make_shared<dataplane::delivery::AddressSet>();
        set->addresses.push_back(known->address.ip);
        set->valid_until = loop_.now() + std::chrono::minutes{5};
        co_return AddressResult{std::move(set)};
    }
    co_return std::unexpected(ResolveError::no_such_domain);
}

// ---- passwords

Task<AuthVerdict> PasswordTable::verify(std::string user, std::string password, base::IpAddress,
                                        Deadline deadline) {
    const auto time =
        random_.time(milliseconds{0}, milliseconds{troubled && random_.chance(5) ? 60'000 : 50});
    const auto woke = co_await base::sleep_until(loop_, deadline.sooner(loop_.now() + time));
    if (woke == base::Wake::cancelled || (troubled && random_.chance(3)))
        co_return AuthVerdict::unavailable;
    const bool known = user == account_name || user == disabled_name;
    co_return known&& password == account_password ? AuthVerdict::accepted : AuthVerdict::rejected;
}

// ---- events

void EventTrace::publish() noexcept {
    using dataplane::telemetry::EventText;
    std::string text{to_string(event_.type)};
    text += ' ' + std::string{event_.get(EventText::recipient)} + ' ' +
            std::to_string(event_.code) + ' ';
    text += event_.get(EventText::response);
    audit_.trace("event", text);
}

// ---- connections

CountingTransport::CountingTransport(SimNet& net, Audit& audit, const Setting& setting)
    : net_(net), audit_(audit), setting_(setting) {
    for (const auto& provider : setting.providers) {
        for (const HostSetting& host : provider)
            provider_of_[host.address] = host.provider;
    }
}

/// One connection's place in the counts, from the attempt to the end.
class CountingTransport::Place {
public:
    Place(CountingTransport& owner, Key key) : owner_(&owner), key_(key) {
        const std::uint32_t open = ++owner.open_[key];
        ++owner.open_total_;
        const std::uint32_t limit = owner.setting_.shapes[key.first].connections_max;
        if (open > limit) {
            owner.audit_.violation(std::to_string(open) + " connections to provider " +
                                   std::to_string(key.first) + " from " + key.second.to_string() +
                                   ", its limit is " + std::to_string(limit));
        }
    }
    Place(Place&& other) noexcept
        : owner_(std::exchange(other.owner_, nullptr)), key_(other.key_) {}
    Place& operator=(Place&&) = delete;
    ~Place() { leave(); }
    void leave() noexcept {
        CountingTransport* owner = std::exchange(owner_, nullptr);
        if (owner == nullptr) return;
        --owner->open_[key_];
        --owner->open_total_;
    }

private:
    CountingTransport* owner_;
    Key key_;
};

class CountingTransport::CountedStream final : public base::Stream {
public:
    CountedStream(base::StreamPtr inner, Place place)
        : place_(std::move(place)), inner_(std::move(inner)) {}
    std::span<const std::byte> unread() const noexcept override { return inner_->unread(); }
    void consume(std::size_t bytes) noexcept override { inner_->consume(bytes); }
    Task<base::NetResult<>> fill(Deadline deadline) override { return inner_->fill(deadline); }
    Task<base::NetResult<>> write(std::span<const std::byte> bytes, Deadline deadline) override {
        return inner_->write(bytes, deadline);
    }
    Task<base::NetResult<>> write(base::SlabChain slabs, Deadline deadline) override {
        return inner_->write(std::move(slabs), deadline);
    }
    Task<base::NetResult<>> drain(Deadline deadline) override { return inner_->drain(deadline); }
    Task<base::NetResult<>> shutdown_write(Deadline deadline) override {
        return inner_->shutdown_write(deadline);
    }
    void close() noexcept override {
        inner_->close();
        place_.leave();
    }
    void abort() noexcept override {
        inner_->abort();
        place_.leave();
    }
    const base::StreamInfo& info() const noexcept override { return inner_->info(); }

private:
    Place place_;
    base::StreamPtr inner_;
};

Task<base::NetResult<base::StreamPtr>>
CountingTransport::connect(base::SocketAddress remote, std::optional<base::IpAddress> source,
                           Deadline deadline) {
    const auto provider = provider_of_.find(remote);
    if (provider == provider_of_.end()) {
        audit_.violation("a connection to " + remote.to_string() + ", where nobody lives");
        co_return std::unexpected(base::NetError::unreachable);
    }
    Place place{*this, Key{provider->second, source.value_or(base::IpAddress{})}};
    auto stream = co_await net_.connect(remote, source, deadline);
    if (!stream) co_return std::unexpected(stream.error());
    ++made_;
    base::StreamPtr counted = std::make_unique<CountedStream>(std::move(*stream), std::move(place));
    co_return base::NetResult<base::StreamPtr>{std::move(counted)};
}

} // namespace tests::sim
