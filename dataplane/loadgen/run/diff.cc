#include "dataplane/loadgen/run/diff.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

namespace dataplane::loadgen {
namespace {

std::vector<double> column(const RunResult& result, double Sample::* field) {
    std::vector<double> values;
    for (const Sample& sample : result.samples) {
        if (sample.measured) values.push_back(sample.*field);
    }
    double next = result.latency_ms(1);
    for (auto value = values.rbegin(); value != values.rend(); ++value) {
        if (std::isnan(*value)) *value = next;
        next = *value;
    }
    return values;
}

/// A name that only one side knows is a difference too.
void compare_facts(const std::string& what, const Facts& a, const Facts& b,
                   std::vector<std::string>& remarks) {
    const std::map<std::string, std::string> before(a.begin(), a.end()), after(b.begin(), b.end());
    if (before.empty() || after.empty()) return; // a result of an earlier version
    const auto value = [](const auto& facts, const std::string& name) {
        const auto found = facts.find(name);
        return found == facts.end() ? std::string("not told") : found->second;
    };
    std::set<std::string> names;
    for (const auto& [name, text] : before)
        names.insert(name);
    for (const auto& [name, text] : after)
        names.insert(name);
    for (const std::string& name : names) {
        const std::string one = value(before, name), other = value(after, name);
        if (name == "huge pages" || one == other) continue; // how many are free just now
        remarks.push_back(what + " differ in " + name + ": " + one + " and " + other);
    }
}

/// The relay's CPU for each thousand messages, second by second.
std::vector<double> cpu_per_1000(const RunResult& result) {
    std::vector<double> values;
    for (const Sample& sample : result.samples) {
        if (sample.measured && sample.accepted_per_s > 0)
            values.push_back(1000 * sample.relay_cpu / sample.accepted_per_s);
    }
    return values;
}

double percent_of(double part, double whole) {
    return whole == 0 ? 0 : 100 * part / std::abs(whole);
}

constexpr double alike = 0.1; // lengths that differ by less are the same to a count of rare things

/// How many times longer the one audit is.
double per(const Audit& one, const Audit& other) {
    if (one.promised == 0 || other.promised == 0) return 1;
    const double times = static_cast<double>(one.promised) / static_cast<double>(other.promised);
    return std::abs(times - 1) < alike ? 1 : times;
}

Change changed(std::string name, double before, double after, const Estimate& a, const Estimate& b,
               bool more_is_better) {
    Change change{.name = std::move(name), .before = before, .after = after};
    change.percent = percent_of(after - before, before);
    change.verdict = compare(a, b, more_is_better);
    // The seconds say one thing and the whole run another: then neither is sure.
    if (change.verdict != Verdict::same && (b.mean - a.mean) * (after - before) < 0)
        change.verdict = Verdict::unclear;
    const double noise = std::hypot(a.half_width, b.half_width);
    if (std::isfinite(noise)) change.noise_percent = percent_of(noise, a.mean);
    return change;
}

Estimate knee_of(const CapacityResult& capacity) {
    return {capacity.knee, capacity.half_width, capacity.knees.size()};
}

std::string_view name_of(Verdict verdict) {
    switch (verdict) {
    case Verdict::same:
        return "noise";
    case Verdict::better:
        return "BETTER";
    case Verdict::worse:
        return "WORSE";
    case Verdict::unclear:
        return "cannot tell";
    }
    return "";
}

std::string padded(std::string text, std::size_t columns) {
    text.resize(std::max(columns, text.size()), ' ');
    return text;
}

} // namespace

bool Difference::any_worse() const noexcept {
    return std::any_of(changes.begin(), changes.end(),
                       [](const Change& change) { return change.verdict == Verdict::worse; });
}

Difference difference_of(const RunResult& a, const RunResult& b) {
    Difference difference;
    const auto by_second = [&](const char* name, double before, double after,
                               double Sample::* field, bool more_is_better) {
        difference.changes.push_back(
            changed(name, before, after, estimate_in_batches(column(a, field)),
                    estimate_in_batches(column(b, field)), more_is_better));
    };
    if (a.capacity.searched && b.capacity.searched)
        difference.changes.push_back(changed("capacity, messages/s", a.capacity.knee,
                                             b.capacity.knee, knee_of(a.capacity),
                                             knee_of(b.capacity), true));
    by_second("accepted/s", a.accepted_per_s(), b.accepted_per_s(), &Sample::accepted_per_s, true);
    if (!a.providers.empty() && !b.providers.empty())
        by_second("delivered/s", a.delivered_per_s(), b.delivered_per_s(), &Sample::delivered_per_s,
                  true);
    by_second("accept p50, ms", a.latency_ms(0.5), b.latency_ms(0.5), &Sample::p50_ms, false);
    by_second("accept p99, ms", a.latency_ms(0.99), b.latency_ms(0.99), &Sample::p99_ms, false);
    if (a.relay.known && b.relay.known) {
        difference.changes.push_back(changed(
            "relay CPU s per 1,000", a.cpu_s_per_1000(), b.cpu_s_per_1000(),
            estimate_in_batches(cpu_per_1000(a)), estimate_in_batches(cpu_per_1000(b)), false));
    }
    // Counts of rare things: any number of them is told, none is put down to chance.
    const auto plain = [&](const std::string& name, double before, double after, bool fault) {
        Change change{.name = name, .before = before, .after = after};
        change.percent = percent_of(after - before, before);
        if (fault) { // of two runs of different length, by the recipients that were at stake
            const double expected = before * per(b.audit, a.audit);
            change.verdict = after > expected   ? Verdict::worse
                             : after < expected ? Verdict::better
                                                : Verdict::same;
        }
        if (before != 0 || after != 0) difference.changes.push_back(change);
    };
    plain("accept p99.9, ms", a.latency_ms(0.999), b.latency_ms(0.999), false);
    if (a.relay.known && b.relay.known)
        plain("relay memory at most, MB", a.relay.memory_max_mb, b.relay.memory_max_mb, false);
    for (const NamedValue& room : a.rooms) {
        const auto other = std::ranges::find(b.rooms, room.name, &NamedValue::name);
        if (other == b.rooms.end() || a.accepted == 0 || b.accepted == 0) continue;
        plain("relay CPU us a message, " + room.name,
              1e6 * room.value / static_cast<double>(a.accepted),
              1e6 * other->value / static_cast<double>(b.accepted), false);
    }
    const auto before = faults(a.audit), after = faults(b.audit);
    for (std::size_t i = 0; i < before.size(); ++i) {
        const bool fault = before[i].first == "lost" || before[i].first == "altered" ||
                           before[i].first == "duplicated" || before[i].first == "unexplained" ||
                           before[i].first == "misdelivered";
        plain(before[i].first, static_cast<double>(before[i].second->count),
              static_cast<double>(after[i].second->count), fault);
    }

    for (const auto& [which, result] : {std::pair{"the first", &a}, std::pair{"the second", &b}}) {
        for (const std::string& doubt : result->doubts)
            difference.remarks.push_back(std::string(which) + " run cannot be trusted: " + doubt);
    }
    if (a.profile_text != b.profile_text)
        difference.remarks.emplace_back("the profiles differ: " + a.profile + " and " + b.profile);
    if (a.rate_per_s != b.rate_per_s)
        difference.remarks.push_back("the rates due differ: " + shown(a.rate_per_s) + " and " +
                                     shown(b.rate_per_s) + " messages/s");
    if (a.relay_greeting != b.relay_greeting)
        difference.remarks.push_back("the relays greet otherwise: " + a.relay_greeting + " and " +
                                     b.relay_greeting);
    compare_facts("the set-ups", a.setup, b.setup, difference.remarks);
    compare_facts("the machines", a.machine, b.machine, difference.remarks);
    return difference;
}

std::string to_text(const Difference& difference) {
    std::string text = padded("", 28) + padded("before", 14) + padded("after", 14) +
                       padded("change", 12) + padded("noise", 10) + "verdict\n";
    for (const Change& change : difference.changes) {
        const double rounded = std::round(10 * change.percent) / 10;
        text +=
            padded(change.name, 28) + padded(shown(change.before), 14) +
            padded(shown(change.after), 14) +
            padded((rounded > 0 ? "+" : "") + shown(rounded) + " %", 12) +
            padded(change.noise_percent > 0 ? "+-" + shown(change.noise_percent) + " %" : "", 10) +
            std::string(name_of(change.verdict)) + "\n";
    }
    for (const std::string& remark : difference.remarks)
        text += "note: " + remark + "\n";
    text += "note: the noise is that within each run; how much runs of the same differ among "
            "themselves only several of each tell\n";
    return without_controls(std::move(text)); // the results may be somebody else's files
}

} // namespace dataplane::loadgen
