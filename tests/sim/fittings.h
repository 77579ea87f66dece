// fittings.h: what the relay is wired to in the simulation, besides network and disk: names, passwords, events,
// and a transport that counts.
//
// Threading  The Loop's.
#pragma once

#include "dataplane/delivery/resolver.h"
#include "dataplane/policy/authenticator.h"
#include "dataplane/telemetry/event.h"
#include "tests/sim/audit.h"
#include "tests/sim/random.h"
#include "tests/sim/setting.h"
#include "tests/support/sim_net.h"

#include <map>
#include <string>
#include <utility>

namespace tests::sim {

/// The zone of a setting. Slow by some milliseconds, and while troubled it fails now and then.
class ZoneResolver final : public dataplane::delivery::Resolver {
public:
    ZoneResolver(base::Loop& loop, const Setting& setting);
    base::Task<dataplane::delivery::MxResult> mx(std::string domain,
                                                 base::Deadline deadline) override;
    base::Task<dataplane::delivery::AddressResult> addresses(std::string host,
                                                             base::Deadline deadline) override;
    bool troubled = true;

private:
    base::Task<std::optional<dataplane::delivery::ResolveError>> take_time(base::Deadline deadline);
    base::Loop& loop_;
    const Setting& setting_;
    Random random_;
};

/// Two accounts with one password; sometimes there is no answer while troubled.
class PasswordTable final : public dataplane::policy::Authenticator {
public:
    PasswordTable(base::Loop& loop, std::uint64_t seed) : loop_(loop), random_(seed, 5) {}
    base::Task<dataplane::policy::AuthVerdict> verify(std::string user, std::string password,
                                                      base::IpAddress client,
                                                      base::Deadline deadline) override;
    bool troubled = true;

private:
    base::Loop& loop_;
    Random random_;
};

/// Every event becomes part of the trace.
class EventTrace final : public dataplane::telemetry::EventSink {
public:
    explicit EventTrace(Audit& audit) : audit_(audit) {}
    dataplane::telemetry::Event* claim() noexcept override { return &event_; }
    void publish() noexcept override;

private:
    Audit& audit_;
    dataplane::telemetry::Event event_;
};

/// Passes everything on to the simulated network, and checks connections per provider and source against the
/// limits as they are opened.
class CountingTransport final : public base::Transport {
public:
    CountingTransport(SimNet& net, Audit& audit, const Setting& setting);
    base::NetResult<std::unique_ptr<base::Listener>>
    listen(const base::SocketAddress& local, const base::ListenOptions& options) override {
        return net_.listen(local, options);
    }
    base::Task<base::NetResult<base::StreamPtr>> connect(base::SocketAddress remote,
                                                         std::optional<base::IpAddress> source,
                                                         base::Deadline deadline) override;
    /// Streams that the relay holds.
    [[nodiscard]] std::size_t open_count() const noexcept { return open_total_; }
    /// Connections it has made so far.
    [[nodiscard]] std::uint64_t made_count() const noexcept { return made_; }

private:
    class CountedStream;
    class Place;
    using Key = std::pair<std::size_t, base::IpAddress>; // provider, source

    SimNet& net_;
    Audit& audit_;
    const Setting& setting_;
    std::map<base::SocketAddress, std::size_t> provider_of_;
    std::map<Key, std::uint32_t> open_;
    std::size_t open_total_ = 0;
    std::uint64_t made_ = 0;
};

} // namespace tests::sim
