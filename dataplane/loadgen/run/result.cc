#include "dataplane/loadgen/run/result.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace dataplane::loadgen {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view format = "millrace-bench run 1";

// One list of the sample's fields for both directions.
template <class Take>
void each_field(Take take) {
    take("at_s", &Sample::at_s);
    take("offered_per_s", &Sample::offered_per_s);
    take("accepted_per_s", &Sample::accepted_per_s);
    take("delivered_per_s", &Sample::delivered_per_s);
    take("failed_per_s", &Sample::failed_per_s);
    take("p50_ms", &Sample::p50_ms);
    take("p99_ms", &Sample::p99_ms);
    take("max_ms", &Sample::max_ms);
    take("backlog", &Sample::backlog);
    take("relay_cpu", &Sample::relay_cpu);
    take("relay_mb", &Sample::relay_mb);
    take("source_cpu", &Sample::source_cpu);
    take("sink_cpu", &Sample::sink_cpu);
    take("source_wait", &Sample::source_wait);
    take("sink_wait", &Sample::sink_wait);
    take("others_cpu", &Sample::others_cpu);
}

template <class Take>
void each_count(Take take) {
    take("sent", &RunResult::sent);
    take("accepted", &RunResult::accepted);
    take("refused_transient", &RunResult::transient);
    take("refused_permanent", &RunResult::permanent);
    take("unknown", &RunResult::unknown);
    take("due", &RunResult::due);
    take("overdue", &RunResult::overdue);
    take("bytes", &RunResult::bytes);
    take("recipients", &RunResult::recipients);
    take("recipients_refused", &RunResult::recipients_refused);
    take("sink_messages", &RunResult::sink_messages);
    take("signed_messages", &RunResult::signed_messages);
    take("delivered", &RunResult::delivered);
    take("connections", &RunResult::connections);
    take("connections_broken", &RunResult::connections_broken);
    take("tls_connections", &RunResult::tls_connections);
    take("tls_resumed", &RunResult::tls_resumed);
}

template <class Take>
void each_fault(Take take) {
    take("lost", &Audit::lost);
    take("duplicated", &Audit::duplicated);
    take("altered", &Audit::altered);
    take("misdelivered", &Audit::misdelivered);
    take("put_off", &Audit::put_off);
    take("unexplained", &Audit::unexplained);
    take("late", &Audit::late);
    take("reordered", &Audit::reordered);
}

template <class Take>
void each_provider_count(Take take) {
    take("taken", &ProviderTally::taken);
    take("refused_4xx", &ProviderTally::refused_4xx);
    take("refused_5xx", &ProviderTally::refused_5xx);
    take("greylisted", &ProviderTally::greylisted);
    take("disconnected", &ProviderTally::disconnected);
    take("connections_refused", &ProviderTally::connections_refused);
}

/// What has no value is null in JSON.
double number_or(const Json& json, const char* name, double absent) {
    const auto found = json.find(name);
    return found == json.end() || !found->is_number() ? absent : found->get<double>();
}

Json to_object(const Facts& facts) {
    Json object = Json::object();
    for (const auto& [name, value] : facts)
        object[name] = value;
    return object;
}

Facts facts_of(const Json& json) {
    Facts facts;
    for (const auto& [name, value] : json.items())
        facts.emplace_back(name, value.get<std::string>());
    return facts;
}

Json to_object(const Histogram& histogram) {
    Json buckets = Json::array();
    histogram.each_bucket([&](std::size_t index, std::uint64_t, std::uint64_t,
                              std::uint64_t count) { buckets.push_back({index, count}); });
    return {{"max", histogram.max()}, {"buckets", buckets}};
}

Histogram histogram_of(const Json& json) {
    Histogram histogram;
    for (const Json& bucket : json.at("buckets")) {
        if (!histogram.add_bucket(bucket.at(0), bucket.at(1)))
            throw std::runtime_error("a bucket of the histogram does not exist");
    }
    histogram.limit_max(json.at("max"));
    return histogram;
}

Json to_object(const CapacityResult& capacity) {
    Json trials = Json::array();
    for (const Trial& trial : capacity.trials) {
        trials.push_back({{"repeat", trial.repeat},
                          {"rate_per_s", trial.facts.rate},
                          {"seconds", trial.facts.seconds},
                          {"due", trial.facts.due},
                          {"accepted", trial.facts.accepted},
                          {"failed", trial.facts.failed},
                          {"p99_us", trial.facts.p99_us},
                          {"backlog", trial.facts.backlog},
                          {"passed", trial.passed},
                          {"why_not", trial.why_not}});
    }
    return {{"knee_per_s", capacity.knee},
            {"half_width_95", capacity.half_width},
            {"knees", capacity.knees},
            {"caveat", capacity.caveat},
            {"bounds", capacity.bounds},
            {"full_run", capacity.full_run},
            {"trials", trials}};
}

CapacityResult capacity_of(const Json& json) {
    CapacityResult capacity{
        .searched = true,
        .knee = json.at("knee_per_s"),
        .half_width = number_or(json, "half_width_95", std::numeric_limits<double>::infinity()),
        .knees = json.at("knees"),
        .caveat = json.at("caveat"),
        .full_run = json.value("full_run", ""),
        .bounds = json.at("bounds")};
    for (const Json& entry : json.at("trials")) {
        Trial trial{.repeat = entry.at("repeat"),
                    .passed = entry.at("passed"),
                    .why_not = entry.at("why_not")};
        trial.facts = {.rate = entry.at("rate_per_s"),
                       .seconds = entry.at("seconds"),
                       .due = entry.at("due"),
                       .accepted = entry.at("accepted"),
                       .failed = entry.at("failed"),
                       .p99_us = entry.at("p99_us"),
                       .backlog = entry.at("backlog")};
        capacity.trials.push_back(std::move(trial));
    }
    return capacity;
}

} // namespace

std::string without_controls(std::string text) {
    for (char& c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if ((byte < ' ' && c != '\n') || byte == 0x7F) c = '?';
    }
    return text;
}

std::vector<std::pair<std::string, const Fault*>> faults(const Audit& audit) {
    std::vector<std::pair<std::string, const Fault*>> all;
    each_fault(
        [&](const char* name, Fault Audit::* fault) { all.emplace_back(name, &(audit.*fault)); });
    return all;
}

std::string to_json(const RunResult& result) {
    Json json{{"format", format},
              {"profile", result.profile},
              {"command", result.command},
              {"began", result.began},
              {"relay_greeting", result.relay_greeting},
              {"trusted", result.doubts.empty()},
              {"doubts", result.doubts},
              {"unchecked", result.unchecked},
              {"setup", to_object(result.setup)},
              {"measured_from", result.measured_from},
              {"seconds", result.seconds},
              {"rate_per_s", result.rate_per_s},
              {"accepted_per_s", result.accepted_per_s()},
              {"delivered_per_s", result.delivered_per_s()},
              {"settled_s", result.settled_s},
              {"settled", result.settled},
              {"settled_per_s", result.settled_per_s()},
              {"accept_ms_p50", result.latency_ms(0.5)},
              {"accept_ms_p99", result.latency_ms(0.99)},
              {"accept_ms_p999", result.latency_ms(0.999)},
              {"accept_ms_max", static_cast<double>(result.latency_ns.max()) / 1e6}};
    each_count(
        [&](const char* name, std::uint64_t RunResult::* count) { json[name] = result.*count; });
    json["last_error"] = result.last_error;
    if (result.relay.known) {
        Json threads = Json::object();
        for (const NamedValue& thread : result.relay.threads)
            threads[thread.name] = thread.value;
        Json over_time = Json::object();
        for (const ThreadUse& thread : result.relay.over_time)
            over_time[thread.name] = thread.cores;
        json["relay"] = {{"cpu_s", result.relay.cpu_s},
                         {"settled_cpu_s", result.relay.settled_cpu_s},
                         {"cpu_s_per_1000", result.cpu_s_per_1000()},
                         {"memory_max_mb", result.relay.memory_max_mb},
                         {"cpu_s_by_thread", threads},
                         {"cores_by_thread", over_time}};
    }
    if (!result.rooms.empty()) {
        Json rooms = Json::object();
        for (const NamedValue& room : result.rooms)
            rooms[room.name] = room.value;
        Json over_time = Json::object();
        for (const ThreadUse& room : result.rooms_over_time)
            over_time[room.name] = room.cores;
        json["relay_rooms"] = {{"cpu_s", rooms}, {"cores", over_time}};
    }
    Json audit{{"promised", result.audit.promised},
               {"refused", result.audit.refused},
               {"arrived", result.audit.delivered},
               {"unknown_messages", result.audit.unknown_messages},
               {"unknown_arrived", result.audit.unknown_delivered}};
    each_fault([&](const char* name, Fault Audit::* fault) {
        audit[name] = {{"count", (result.audit.*fault).count},
                       {"examples", (result.audit.*fault).examples}};
    });
    json["audit"] = audit;
    if (result.capacity.searched) json["capacity"] = to_object(result.capacity);
    Json providers = Json::array();
    for (const ProviderTally& tally : result.providers) {
        Json one{{"name", tally.name}};
        each_provider_count([&](const char* name, std::uint64_t ProviderTally::* count) {
            one[name] = tally.*count;
        });
        providers.push_back(one);
    }
    json["providers"] = providers;
    Json hostile = Json::object();
    for (const NamedValue& value : result.hostile)
        hostile[value.name] = value.value;
    json["hostile"] = hostile;
    Json targets = Json::array();
    for (const TargetTally& target : result.targets)
        targets.push_back({{"name", target.name},
                           {"accepted", target.accepted},
                           {"failed", target.failed},
                           {"connections", target.connections},
                           {"latency_ns", to_object(target.accept_latency_ns)}});
    json["relays"] = targets;
    json["machine"] = to_object(result.machine);
    json["latency_ns"] = to_object(result.latency_ns);
    Json samples = Json::array();
    for (const Sample& sample : result.samples) {
        Json one{{"measured", sample.measured}};
        each_field([&](const char* name, double Sample::* field) { one[name] = sample.*field; });
        samples.push_back(one);
    }
    json["samples"] = samples;
    json["profile_text"] = result.profile_text;
    return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

RunResult result_from_json(const std::string& text) try {
    const Json json = Json::parse(text);
    if (json.at("format") != format) throw std::runtime_error("it is of another format");
    RunResult result;
    result.profile = json.at("profile");
    result.command = json.at("command");
    result.began = json.at("began");
    result.relay_greeting = json.at("relay_greeting");
    result.doubts = json.at("doubts");
    result.unchecked = json.value("unchecked", std::vector<std::string>{});
    result.setup = facts_of(json.value("setup", Json::object()));
    result.measured_from = json.value("measured_from", 0.0);
    result.seconds = json.at("seconds");
    result.rate_per_s = json.at("rate_per_s");
    result.settled_s = json.value("settled_s", 0.0);
    result.settled = json.value("settled", std::uint64_t{0});
    each_count([&](const char* name, std::uint64_t RunResult::* count) {
        result.*count = json.value(name, std::uint64_t{0});
    });
    result.last_error = json.at("last_error");
    if (json.contains("relay")) {
        const Json& relay = json.at("relay");
        result.relay = {
            .known = true, .cpu_s = relay.at("cpu_s"), .memory_max_mb = relay.at("memory_max_mb")};
        result.relay.settled_cpu_s = relay.value("settled_cpu_s", 0.0);
        for (const auto& [name, value] : relay.at("cpu_s_by_thread").items())
            result.relay.threads.push_back({name, value});
        if (relay.contains("cores_by_thread")) { // results of an earlier version have none
            for (const auto& [name, values] : relay.at("cores_by_thread").items())
                result.relay.over_time.push_back({name, values});
        }
    }
    if (json.contains("relay_rooms")) {
        for (const auto& [name, value] : json.at("relay_rooms").at("cpu_s").items())
            result.rooms.push_back({name, value});
        for (const auto& [name, values] : json.at("relay_rooms").at("cores").items())
            result.rooms_over_time.push_back({name, values});
    }
    const Json& audit = json.at("audit");
    result.audit.promised = audit.at("promised");
    result.audit.delivered = audit.at("arrived");
    result.audit.refused = audit.at("refused");
    result.audit.unknown_messages = audit.at("unknown_messages");
    result.audit.unknown_delivered = audit.at("unknown_arrived");
    each_fault([&](const char* name, Fault Audit::* fault) {
        if (!audit.contains(name)) return; // of an earlier version, which did not look for it
        (result.audit.*fault).count = audit.at(name).at("count");
        (result.audit.*fault).examples = audit.at(name).at("examples");
    });
    if (json.contains("capacity")) result.capacity = capacity_of(json.at("capacity"));
    for (const Json& entry : json.at("providers")) {
        ProviderTally tally{.name = entry.at("name")};
        each_provider_count([&](const char* name, std::uint64_t ProviderTally::* count) {
            tally.*count = entry.at(name);
        });
        result.providers.push_back(std::move(tally));
    }
    for (const auto& [name, value] : json.at("hostile").items())
        result.hostile.push_back({name, value});
    for (const Json& entry : json.value("relays", Json::array()))
        result.targets.push_back({.name = entry.at("name"),
                                  .accepted = entry.at("accepted"),
                                  .failed = entry.at("failed"),
                                  .connections = entry.at("connections"),
                                  .accept_latency_ns = histogram_of(entry.at("latency_ns"))});
    result.machine = facts_of(json.at("machine"));
    result.latency_ns = histogram_of(json.at("latency_ns"));
    for (const Json& entry : json.at("samples")) {
        Sample sample{.measured = entry.at("measured")};
        each_field([&](const char* name, double Sample::* field) {
            sample.*field = number_or(entry, name, entry.contains(name) ? std::nan("") : 0);
        });
        result.samples.push_back(sample);
    }
    result.profile_text = json.at("profile_text");
    return result;
} catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(std::string("not a result of `millrace-bench run --json`: ") +
                             error.what());
}

Facts headline(const RunResult& result) {
    const auto number = [](std::uint64_t count) { return shown(static_cast<double>(count)); };
    Facts facts;
    if (result.capacity.searched) {
        const bool sure = std::isfinite(result.capacity.half_width);
        facts.emplace_back("capacity",
                           shown(result.capacity.knee) + " messages/s" +
                               (sure ? " \u00b1 " + shown(result.capacity.half_width) : "") + " (" +
                               shown(result.capacity.knee * 3600) + " an hour)" +
                               (result.capacity.full_run.empty() ? "" : ", NOT CONFIRMED"));
        facts.emplace_back("bounds", result.capacity.bounds);
    }
    facts.emplace_back("loop", result.rate_per_s > 0
                                   ? "open, " + shown(result.rate_per_s) + " messages/s due"
                                   : "closed");
    facts.emplace_back("accepted", shown(result.accepted_per_s()) + "/s, " +
                                       number(result.accepted) + " in " + shown(result.seconds) +
                                       " s");
    for (const TargetTally& target : result.targets) {
        if (result.targets.size() < 2) break;
        facts.emplace_back(
            "relay " + target.name,
            number(target.accepted) + " accepted over " + number(target.connections) +
                " connections, " + number(target.failed) + " not; p50 " +
                shown(static_cast<double>(target.accept_latency_ns.percentile(0.5)) / 1e6) +
                ", p99 " +
                shown(static_cast<double>(target.accept_latency_ns.percentile(0.99)) / 1e6) +
                " ms");
    }
    facts.emplace_back("delivered", shown(result.delivered_per_s()) + " recipients/s");
    if (result.settled_s > 0)
        facts.emplace_back("until all had arrived", shown(result.settled_per_s()) +
                                                        " recipients/s over " +
                                                        shown(result.settled_s) + " s");
    facts.emplace_back("accept latency", "p50 " + shown(result.latency_ms(0.5)) + ", p99 " +
                                             shown(result.latency_ms(0.99)) + ", p99.9 " +
                                             shown(result.latency_ms(0.999)) + ", max " +
                                             shown(result.latency_ms(1)) + " ms");
    facts.emplace_back("refused", number(result.transient) + " for now, " +
                                      number(result.permanent) + " for good, " +
                                      number(result.unknown) + " of unknown fate" +
                                      (result.recipients_refused == 0
                                           ? ""
                                           : ", " + number(result.recipients_refused) +
                                                 " recipients of messages that were accepted"));
    if (result.sink_messages != 0)
        facts.emplace_back("DKIM", number(result.signed_messages) + " of " +
                                       number(result.sink_messages) +
                                       " messages that came bore a signature");
    if (result.rate_per_s > 0)
        facts.emplace_back("overdue", number(result.overdue) + " of " + number(result.due) +
                                          " due were not even begun");
    if (result.relay.known) {
        facts.emplace_back("relay CPU", shown(result.cpu_s_per_1000()) + " s per 1,000 messages");
        if (result.relay.settled_cpu_s > 0 && result.settled != 0)
            facts.emplace_back(
                "relay CPU until all had arrived",
                shown(result.relay.settled_cpu_s * 1000 / static_cast<double>(result.settled)) +
                    " s per 1,000 recipients");
        facts.emplace_back("relay memory", shown(result.relay.memory_max_mb) + " MB at most");
    }
    facts.emplace_back("connections made", number(result.connections) + ", " +
                                               number(result.tls_connections) + " with TLS, " +
                                               number(result.tls_resumed) + " resumed, " +
                                               number(result.connections_broken) + " broken");
    return facts;
}

std::string to_text(const RunResult& result) {
    std::string text;
    for (const auto& [name, value] : headline(result)) {
        text += name + ": ";
        text += value;
        text += '\n';
    }
    if (!result.capacity.caveat.empty()) text += "capacity: " + result.capacity.caveat + '\n';
    text += to_text(result.audit);
    if (!result.last_error.empty()) text += "last error: " + result.last_error + '\n';
    for (const std::string& what : result.unchecked)
        text += "not checked: " + what + '\n';
    for (const std::string& doubt : result.doubts)
        text += "NOT TO BE TRUSTED: " + doubt + '\n';
    return without_controls(std::move(text)); // it may be somebody else's file
}

} // namespace dataplane::loadgen
