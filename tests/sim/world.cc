#include "tests/sim/world.h"

#include "dataplane/daemon/queue_operations.h"
#include "dataplane/daemon/relay.h"
#include "tests/sim/crew.h"
#include "tests/sim/fittings.h"
#include "tests/sim/peer.h"
#include "tests/sim/setting.h"
#include "tests/support/sim_disk.h"

#include <algorithm>
#include <map>
#include <optional>

namespace tests::sim {
namespace {

using base::Task;
using control::schema::Gauge;
using dataplane::daemon::LogLevel;
using dataplane::daemon::Relay;
using std::chrono::seconds;

constexpr std::uint64_t turns_max = 40'000'000; // then something spins
constexpr seconds stop_time{20};                // what a restart gives sessions and deliveries
constexpr seconds leftover_time{30}; // for what the relay left on the loop to end by itself

/// One life of the relay, and what dies with it.
struct House {
    House(const Setting& setting, base::Loop& loop, base::Transport& transport, queue::Disk& disk,
          dataplane::policy::PolicySlot& slot, PasswordTable& passwords, ZoneResolver& names,
          EventTrace& events, std::uint64_t boot, Audit& audit)
        : relay({.loop = loop,
                 .transports = {.kernel = transport},
                 .disk = disk,
                 .policy = slot,
                 .authenticator = passwords,
                 .resolver = names,
                 .ledger = ledger,
                 .stats = stats,
                 .events = events,
                 .seed = setting.seed * 1000 + boot,
                 .note =
                     [&audit](LogLevel, std::string_view event, std::string_view text) {
                         audit.trace("note", std::string{event} + ' ' + std::string{text});
                     },
                 .rules =
                     [](const dataplane::policy::PolicyPtr& policy) {
                         return load_rules(*policy);
                     }}) {}

    static std::expected<std::shared_ptr<const dataplane::screen::RuleSet>,
                         dataplane::screen::ScreenError>
    load_rules(const dataplane::policy::Policy& policy);

    dataplane::delivery::SiteLedger ledger{64};
    std::unique_ptr<control::schema::ShardStats> page =
        std::make_unique<control::schema::ShardStats>();
    dataplane::telemetry::Stats stats{*page};
    Relay relay;
    std::optional<dataplane::daemon::QueueOperations> operations; // once one has been asked for
};

std::expected<std::shared_ptr<const dataplane::screen::RuleSet>, dataplane::screen::ScreenError>
House::load_rules(const dataplane::policy::Policy& policy) {
    using Action = dataplane::screen::Rule::Action;
    std::vector<dataplane::screen::Rule> rules;
    for (const auto& rule : policy.screen.rules) {
        Action action = Action::reject;
        if (rule.action == dataplane::policy::ScreenRule::Action::defer) action = Action::defer;
        if (rule.action == dataplane::policy::ScreenRule::Action::tag) action = Action::tag;
        rules.push_back({rule.name, action, rule.text, rule.header, rule.value, rule.score});
    }
    return dataplane::screen::RuleSet::load(base::as_bytes(policy.screen.header_database),
                                            base::as_bytes(policy.screen.body_database),
                                            std::move(rules), 0);
}

class World {
public:
    World(std::uint64_t seed, bool print_trace);
    ~World();
    RunResult run();

private:
    enum class State : std::uint8_t { down, opening, up, stopping, stopped };

    // Time.
    bool step(TimePoint limit);
    void after_turn();
    void at(TimePoint when, std::function<void()> action) {
        agenda_.emplace(when, std::move(action));
    }
    [[nodiscard]] TimePoint start_plus(milliseconds time) const { return start_ + time; }

    // The relay's life.
    void boot();
    Task<void> open();
    void crash();
    void restart();
    Task<void> stop();
    void bury(bool in_good_order);
    [[nodiscard]] bool crash_due();
    [[nodiscard]] bool writing_ended();
    [[nodiscard]] std::uint64_t acknowledged() const;

    // What happens to it.
    void happen(const Happening& happening);
    void operate(const Happening& happening);
    void hold_disk(bool held);
    void heal();
    [[nodiscard]] bool drained();
    void look_for_leaks();

    Setting setting_;
    Audit audit_;
    base::ManualClock clock_;
    base::Loop loop_{clock_};
    Crew crew_{loop_};
    SimNet net_;
    CountingTransport transport_;
    ZoneResolver names_;
    PasswordTable passwords_;
    EventTrace events_;
    dataplane::policy::PolicySlot slot_;
    std::vector<std::unique_ptr<Provider>> providers_;
    std::vector<std::unique_ptr<Peer>> peers_;
    Town town_;
    std::multimap<TimePoint, std::function<void()>> agenda_;
    const TimePoint start_ = clock_.now();

    State state_ = State::down;
    std::optional<std::vector<std::byte>> image_; // what a dead relay left on the disk
    std::unique_ptr<SimDisk> disk_;
    std::unique_ptr<House> house_;
    std::uint64_t boots_ = 0;
    TimePoint booted_{};
    TimePoint stopped_at_{};
    std::size_t crash_index_ = 0;
    std::uint64_t taken_before_ = 0, acknowledged_before_ = 0,
                  came_before_ = 0; // when it was booted
    std::optional<unsigned> turns_to_crash_;
    bool restart_wanted_ = false;
    bool read_only_ = false;
    bool stalled_ = false;
    bool healed_ = false;
    bool leaving_ = false;      // the run is over: no further boot
    bool disk_was_bad_ = false; // so that an open() may fail
    std::uint64_t turns_ = 0;
};

World::World(std::uint64_t seed, bool print_trace)
    : setting_(draw_setting(seed)), audit_(print_trace), net_(loop_, setting_.net),
      transport_(net_, audit_, setting_), names_(loop_, setting_), passwords_(loop_, seed),
      events_(audit_), slot_(setting_.policies.front()),
      town_{.loop = loop_,
            .net = net_,
            .audit = audit_,
            .relay_port = setting_.policies.front()->listeners[0].address,
            .submission_port = setting_.policies.front()->listeners[1].address} {
    audit_.set_now(clock_.now());
    Terms terms;
    terms.expiry_min = seconds::max();
    terms.answer_time = setting_.policies.front()->timeouts.data_done;
    for (const auto& policy : setting_.policies)
        terms.expiry_min = std::min(terms.expiry_min, policy->retry.expiry);
    for (const DomainSetting& domain : setting_.domains) {
        terms.provider_of_domain.push_back(domain.provider);
        if (domain.provider != 0) town_.domains.push_back(domain.name);
    }
    audit_.set_terms(std::move(terms));
    town_.message_bytes_max = setting_.policies.front()->limits.message_bytes_max;
    town_.rules = setting_.rules;
    town_.big_bytes = setting_.big_bytes;
    town_.heavy = setting_.heavy;

    for (std::size_t index = 0; index < setting_.providers.size(); ++index) {
        const auto& shape = setting_.shapes[index];
        providers_.push_back(std::make_unique<Provider>());
        Provider& provider = *providers_.back();
        provider.index = index;
        provider.limits = {shape.messages_per_connection_max, shape.recipients_per_message_max,
                           shape.messages_per_second_max};
        for (const HostSetting& host : setting_.providers[index]) {
            peers_.push_back(std::make_unique<Peer>(loop_, net_, crew_, audit_, provider,
                                                    host.address, seed << 8 | peers_.size()));
            peers_.back()->manner = Manner::friendly(peers_.back()->random());
            peers_.back()->start();
        }
    }
    for (const Arrivals& arrival : setting_.clients) {
        at(start_plus(arrival.at),
           [this, plan = arrival.plan] { crew_.spawn(run_client(&town_, plan)); });
    }
    for (const Happening& happening : setting_.happenings) {
        at(start_plus(happening.at), [this, happening] { happen(happening); });
    }
    at(start_plus(setting_.trouble_ends), [this] { heal(); });
}

World::~World() {
    loop_.drop_tasks();
    house_.reset();
}

// ---- time

/// One turn of the loop, or a jump to what comes next. False: nothing comes before `limit`.
bool World::step(TimePoint limit) {
    audit_.set_now(clock_.now());
    const bool more = loop_.turn();
    ++turns_;
    after_turn();
    if (more || !loop_.idle()) return true;
    TimePoint next = loop_.next_due();
    if (!agenda_.empty()) next = std::min(next, agenda_.begin()->first);
    if (next > limit) return false;
    clock_.advance_to(next);
    audit_.set_now(clock_.now());
    while (!agenda_.empty() && agenda_.begin()->first <= clock_.now()) {
        const auto action = std::move(agenda_.begin()->second);
        agenda_.erase(agenda_.begin());
        action();
    }
    return true;
}

/// What must happen outside of all tasks.
void World::after_turn() {
    if (crash_due()) return crash();
    if (state_ == State::stopped) {
        const bool leftovers = loop_.spawned_count() != crew_.alive();
        if (!leftovers) return bury(true);
        if (clock_.now() - stopped_at_ <= leftover_time) return;
        if (!stalled_) { // otherwise sessions may wait for the disk yet
            audit_.violation("the stopped relay left " +
                             std::to_string(loop_.spawned_count() - crew_.alive()) +
                             " tasks on the loop");
        }
        return crash();
    }
    if (state_ == State::up && !read_only_ && writing_ended()) {
        // Perhaps the spool takes nothing any more until it is opened again: an operator would see to that.
        read_only_ = true;
        audit_.disk_fails(true);
        at(clock_.now() + seconds{20}, [this] { restart_wanted_ = true; });
    }
    if (restart_wanted_ && state_ == State::up) {
        restart_wanted_ = false;
        restart();
    }
}

/// Two refused writes in a row may have done it, and one of a superblock has.
bool World::writing_ended() {
    queue::MessageQueue& queue = house_->relay.queue();
    const std::uint64_t errors = queue.counters().write_errors;
    if (errors != 1) return errors > 1;
    const auto draft = queue.begin(0);
    return !draft && draft.error() == queue::SpoolError::read_only;
}

// ---- the relay's life

void World::boot() {
    ++boots_;
    booted_ = clock_.now();
    setting_.disk.seed += boots_;
    if (image_) {
        disk_ = std::make_unique<SimDisk>(loop_, setting_.disk, std::move(*image_));
        image_.reset();
    } else {
        disk_ = std::make_unique<SimDisk>(loop_, setting_.disk);
    }
    house_ = std::make_unique<House>(setting_, loop_, transport_, *disk_, slot_, passwords_, names_,
                                     events_, boots_, audit_);
    taken_before_ = 0;
    for (const auto& peer : peers_)
        taken_before_ += peer->taken();
    acknowledged_before_ = acknowledged();
    came_before_ = net_.connection_count() - transport_.made_count();
    for (const auto& provider : providers_)
        provider->mails.clear(); // a new process knows nothing of rates
    audit_.trace("world", "boot " + std::to_string(boots_));
    state_ = State::opening;
    loop_.spawn(open(), "sim boot");
}

Task<void> World::open() {
    auto opened = co_await house_->relay.open();
    if (!opened) {
        if (!disk_was_bad_) audit_.violation("the relay does not open: " + opened.error());
        audit_.trace("world", opened.error());
        at(clock_.now() + seconds{1}, [this] { crash(); });
        co_return;
    }
    if (opened->records_damaged != 0)
        audit_.violation("recovery found acknowledged records damaged");
    audit_.trace("world", "recovered " + std::to_string(opened->messages_recovered) +
                              " messages, " + std::to_string(opened->possible_duplicates) +
                              " possible duplicates, segments free " +
                              std::to_string(house_->relay.queue().counters().segments_free));
    auto listening = house_->relay.listen();
    if (!listening) audit_.violation("the relay does not listen: " + listening.error());
    state_ = State::up;
}

std::uint64_t World::acknowledged() const {
    return audit_.acknowledged();
}

bool World::crash_due() {
    if (healed_ || (state_ != State::up && state_ != State::opening && state_ != State::stopping))
        return false;
    if (turns_to_crash_) return (*turns_to_crash_)-- == 0;
    if (crash_index_ >= setting_.crashes.size()) return false;
    const CrashPlan& plan = setting_.crashes[crash_index_];
    bool due = false;
    switch (plan.after) {
    case CrashPlan::After::milliseconds:
        due = clock_.now() - booted_ >= milliseconds{plan.count};
        break;
    case CrashPlan::After::disk_writes:
        due = disk_->write_count() >= plan.count;
        break;
    case CrashPlan::After::mails_taken: {
        std::uint64_t taken = 0;
        for (const auto& peer : peers_)
            taken += peer->taken();
        due = taken - taken_before_ >= plan.count;
        break;
    }
    case CrashPlan::After::acknowledgements:
        due = acknowledged() - acknowledged_before_ >= plan.count;
        break;
    case CrashPlan::After::recovery_operations:
        due = state_ == State::opening && disk_->operation_count() >= plan.count;
        break;
    }
    if (due) turns_to_crash_ = plan.turns;
    return false;
}

void World::crash() {
    turns_to_crash_.reset();
    audit_.trace("world", "crash");
    milliseconds down = seconds{1};
    if (crash_index_ < setting_.crashes.size()) down = setting_.crashes[crash_index_++].down;
    audit_.crashed();
    bury(false);
    at(clock_.now() + down, [this] { boot(); });
}

/// The relay is gone: in good order, or with all tasks, its and the world's, where they were.
void World::bury(bool in_good_order) {
    if (!in_good_order) loop_.drop_tasks();
    if (in_good_order) look_for_leaks();
    const queue::QueueCounters counters =
        state_ == State::opening ? queue::QueueCounters{} : house_->relay.queue().counters();
    audit_.trace("world", "spool: accepted " + std::to_string(counters.accepted) + ", batches " +
                              std::to_string(counters.batches) + " of " +
                              std::to_string(counters.batch_bytes) + " bytes, write errors " +
                              std::to_string(counters.write_errors) + ", read errors " +
                              std::to_string(counters.read_errors) + ", segments free " +
                              std::to_string(counters.segments_free) + " of " +
                              std::to_string(counters.segments_total));
    if (std::exchange(read_only_, false)) audit_.disk_fails(false);
    hold_disk(false); // another machine's problem by the next boot
    house_.reset();
    image_ = disk_->crash();
    disk_.reset();
    state_ = State::down;
    if (in_good_order) {
        if (!leaving_) at(clock_.now() + seconds{1}, [this] { boot(); });
        return;
    }
    net_.reset_all();
    if (transport_.open_count() != 0) audit_.violation("connections outlived the relay");
    for (const auto& peer : peers_)
        peer->start();
}

void World::restart() {
    audit_.trace("world", "restart");
    state_ = State::stopping;
    loop_.spawn(stop(), "sim stop");
}

Task<void> World::stop() {
    co_await house_->relay.stop(stop_time);
    audit_.cut();
    stopped_at_ = loop_.now();
    state_ = State::stopped;
}

// ---- what happens to it

void World::happen(const Happening& happening) {
    using What = Happening::What;
    Peer& peer = *peers_[happening.host];
    switch (happening.what) {
    case What::mood:
        peer.manner = Manner::moody(peer.random(), peer.provider().index != 0,
                                    setting_.policies.front()->timeouts.data_done);
        break;
    case What::calm:
        peer.manner = Manner::friendly(peer.random());
        break;
    case What::unreachable:
        net_.fail_connects_to(peer.address(), happening.silent ? base::NetError::timed_out
                                                               : base::NetError::refused);
        break;
    case What::reachable:
        net_.heal(peer.address());
        break;
    case What::disk_fault:
        if (disk_ != nullptr) disk_->fail_writes(happening.fault, happening.count, happening.after);
        disk_was_bad_ = true;
        break;
    case What::disk_stalls:
    case What::disk_goes_on:
        hold_disk(happening.what == What::disk_stalls);
        break;
    case What::read_fault:
        if (disk_ != nullptr) disk_->fail_reads(1);
        disk_was_bad_ = true;
        break;
    case What::swap_policy:
        slot_.replace(setting_.policies[happening.policy]);
        audit_.trace("world", "policy " + std::to_string(happening.policy));
        if (state_ == State::up) house_->relay.policy_changed();
        break;
    case What::restart:
        restart_wanted_ = true;
        break;
    case What::operate:
        if (state_ == State::up && !healed_) operate(happening);
        break;
    }
}

void World::operate(const Happening& happening) {
    using Operation = Happening::Operation;
    using dataplane::delivery::StandingOrder;
    using Kind = dataplane::policy::ShardCommand::Kind;
    const std::string& domain = setting_.domains[happening.domain].name;
    dataplane::delivery::Dispatcher& dispatcher = house_->relay.dispatcher();
    if (!house_->operations) house_->operations.emplace(loop_, house_->relay.queue(), dispatcher);
    const auto start = [&](Kind kind, const std::string& arguments) {
        house_->operations->start(kind, arguments,
                                  [this](std::string json) { audit_.trace("operator", json); });
    };
    const std::string selected = "\"domain\":\"" + domain + "\"";
    audit_.trace("operator",
                 std::to_string(static_cast<unsigned>(happening.operation)) + " " + domain);
    StandingOrder order;
    order.id = 1;
    order.filter.domain = domain;
    order.until = loop_.wall_now() + std::chrono::minutes{2};
    switch (happening.operation) {
    case Operation::count:
        return start(Kind::queue_count, R"({"by":"domain"})");
    case Operation::flush:
        return start(Kind::queue_flush, "{" + selected + "}");
    case Operation::suspend:
        return dispatcher.set_orders({order});
    case Operation::resume:
        return dispatcher.set_orders({});
    case Operation::reroute:
        order.kind = StandingOrder::Kind::reroute;
        order.source = "s1";
        return dispatcher.set_orders({order});
    case Operation::expire:
        audit_.given_up(happening.domain, false);
        return start(Kind::queue_end, R"({"how":"expire",)" + selected + "}");
    case Operation::end_with_report:
        audit_.given_up(happening.domain, false);
        return start(Kind::queue_end, R"({"how":"dsn",)" + selected + "}");
    case Operation::end_silently:
        audit_.given_up(happening.domain, true);
        return start(Kind::queue_end, R"({"how":"remove",)" + selected + "}");
    }
}

void World::hold_disk(bool held) {
    if (held == stalled_ || (held && healed_)) return;
    stalled_ = held;
    audit_.trace("world", held ? "the disk stalls" : "the disk goes on");
    audit_.disk_fails(held);
    for (const auto& provider : providers_) {
        provider->mails.clear();
        provider->rate_counts_from = clock_.now() + seconds{2};
    }
    if (disk_ != nullptr) disk_->hold(held);
}

void World::heal() {
    audit_.trace("world", "everything heals");
    healed_ = true;
    turns_to_crash_.reset();
    hold_disk(false);
    names_.troubled = passwords_.troubled = false;
    for (const auto& peer : peers_) {
        peer->manner = Manner::friendly(peer->random());
        net_.heal(peer->address());
    }
    if (disk_ != nullptr) disk_->fail_writes(SimDisk::Fault::io, 0);
    if (state_ == State::up) house_->relay.dispatcher().set_orders({});
}

bool World::drained() {
    if (!healed_ || state_ != State::up || !agenda_.empty()) return false;
    const queue::QueueCounters counters = house_->relay.queue().counters();
    if (counters.queued_messages != 0 || house_->relay.dispatcher().round_count() != 0)
        return false;
    return std::ranges::none_of(audit_.letters(), [](const Letter& letter) {
        return letter.state == Letter::State::complete;
    });
}

void World::look_for_leaks() {
    if (transport_.open_count() != 0) {
        audit_.violation("the stopped relay holds " + std::to_string(transport_.open_count()) +
                         " connections");
    }
    const queue::QueueCounters counters = house_->relay.queue().counters();
    if (counters.resident_bytes != 0) {
        // Content of what is still queued may stay in memory; of nothing it may not.
        if (counters.queued_messages == 0)
            audit_.violation(std::to_string(counters.resident_bytes) + " bytes of content leaked");
    }
    // What the network knows of, without what the relay itself connected to.
    const std::uint64_t came = net_.connection_count() - transport_.made_count() - came_before_;
    const std::uint64_t counted = house_->stats.get(dataplane::telemetry::Counter::connections_in);
    if (leaving_ && came != counted) {
        audit_.violation(std::to_string(came) + " connections came in, and " +
                         std::to_string(counted) + " were counted");
    }
    for (const Gauge gauge : {Gauge::open_in, Gauge::open_out}) {
        const std::uint64_t open = house_->page->gauges[static_cast<std::size_t>(gauge)].load();
        if (open != 0)
            audit_.violation("the statistics still show open connections: " + std::to_string(open));
    }
}

RunResult World::run() {
    boot();
    const TimePoint limit =
        start_ + setting_.trouble_ends + 3 * setting_.expiry_max + std::chrono::hours{24};
    while (!drained()) {
        if (turns_ > turns_max) {
            audit_.violation("the loop spins");
            break;
        }
        if (!step(limit)) {
            audit_.violation(
                "the queue does not empty: " +
                (house_ != nullptr && state_ == State::up
                     ? std::to_string(house_->relay.queue().counters().queued_messages) +
                           " messages"
                     : "the relay is down"));
            break;
        }
    }
    // The last records, the last goodbyes; then it stops for good.
    const TimePoint calm = clock_.now() + std::chrono::minutes{2};
    while (step(calm))
        continue;
    if (state_ == State::up) {
        const std::uint64_t resident = house_->relay.queue().counters().resident_bytes;
        if (resident != 0)
            audit_.violation(std::to_string(resident) + " bytes of content stay in memory");
        leaving_ = true;
        restart();
    }
    const TimePoint end = clock_.now() + 2 * stop_time + 2 * leftover_time;
    while (state_ != State::down && step(end))
        continue;
    if (state_ != State::down) audit_.violation("the relay does not stop");
    audit_.close();
    return {.violations = audit_.violations(),
            .totals = audit_.totals(),
            .trace_hash = audit_.trace_hash(),
            .turns = turns_,
            .simulated = std::chrono::duration_cast<seconds>(clock_.now() - start_)};
}

} // namespace

RunResult run_world(std::uint64_t seed, bool print_trace) {
    World world{seed, print_trace};
    return world.run();
}

} // namespace tests::sim
