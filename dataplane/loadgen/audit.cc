#include "dataplane/loadgen/audit.h"

#include "dataplane/loadgen/ledger.h"

#include <map>
#include <unordered_map>
#include <unordered_set>
#include <utility>

namespace dataplane::loadgen {
namespace {

struct Promise {
    Outcome outcome = Outcome::unknown;
    std::uint32_t recipients = 0;
    std::unordered_set<std::string> arrived;
};

void describe(std::string& text, std::string_view name, const Fault& fault) {
    text += name;
    text += ' ';
    text += std::to_string(fault.count);
    if (fault.count != 0) {
        text += " (";
        for (const std::string& example : fault.examples)
            text += example + ' ';
        text.back() = ')';
    }
    text += '\n';
}

} // namespace

void Fault::add(const std::string& run, std::uint64_t sequence) {
    ++count;
    if (examples.size() < named_examples_max)
        examples.push_back(run + '/' + std::to_string(sequence));
}

Audit audit(std::istream& source_ledger, std::istream& sink_ledger) {
    Audit result;
    std::map<std::string, std::unordered_map<std::uint64_t, Promise>> runs;
    std::string text;
    while (std::getline(source_ledger, text)) {
        const auto line = parse_source_line(text);
        if (!line) continue;
        Promise& promise = runs[line->run][line->sequence];
        promise.outcome = line->outcome;
        promise.recipients = line->recipients;
        if (line->outcome == Outcome::accepted) result.promised += line->recipients;
        if (line->outcome == Outcome::unknown) ++result.unknown_messages;
    }
    while (std::getline(sink_ledger, text)) {
        auto line = parse_sink_line(text);
        if (!line) continue;
        if (line->altered) result.altered.add(line->run, line->sequence);
        const auto run = runs.find(line->run);
        const bool sent = run != runs.end() && run->second.contains(line->sequence);
        if (!sent) {
            result.unexplained.add(line->run, line->sequence);
            continue;
        }
        Promise& promise = run->second[line->sequence];
        if (!promise.arrived.insert(std::move(line->recipient)).second) {
            result.duplicated.add(line->run, line->sequence);
            continue;
        }
        switch (promise.outcome) {
        case Outcome::accepted:
            ++result.delivered;
            break;
        case Outcome::unknown:
            ++result.unknown_delivered;
            break;
        case Outcome::transient:
        case Outcome::permanent:
            result.unexplained.add(line->run, line->sequence);
            break;
        }
    }
    for (const auto& [run, promises] : runs) {
        for (const auto& [sequence, promise] : promises) {
            if (promise.outcome != Outcome::accepted) continue;
            for (std::size_t i = promise.arrived.size(); i < promise.recipients; ++i) {
                result.lost.add(run, sequence);
            }
        }
    }
    return result;
}

std::string to_text(const Audit& result) {
    std::string text =
        "promised " + std::to_string(result.promised) + "\ndelivered " +
        std::to_string(result.delivered) + "\nunknown " + std::to_string(result.unknown_messages) +
        " (arrived all the same: " + std::to_string(result.unknown_delivered) + ")\n";
    describe(text, "lost", result.lost);
    describe(text, "duplicated", result.duplicated);
    describe(text, "altered", result.altered);
    describe(text, "unexplained", result.unexplained);
    return text;
}

} // namespace dataplane::loadgen
