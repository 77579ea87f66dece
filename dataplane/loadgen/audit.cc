#include "dataplane/loadgen/audit.h"

#include "dataplane/base/slab.h"
#include "dataplane/loadgen/digest.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace dataplane::loadgen {
namespace {

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

template <class Record>
bool by_message(const Record& a, const Record& b) noexcept {
    return std::tie(a.run, a.sequence) < std::tie(b.run, b.sequence);
}

/// Of an address, whose domain may be written in either case.
std::uint64_t digest_of_address(std::string_view address) {
    std::string text(address);
    const std::size_t at = text.rfind('@');
    for (std::size_t i = at == std::string::npos ? 0 : at; i < text.size(); ++i) {
        if (text[i] >= 'A' && text[i] <= 'Z') text[i] = static_cast<char>(text[i] + 32);
    }
    return digest_of(base::as_bytes(std::string_view{text}));
}

std::uint64_t digest_of_text(std::string_view text) {
    return digest_of(base::as_bytes(text));
}

/// One recipient of one message.
std::uint64_t key_of(std::uint64_t run, std::uint64_t sequence, std::uint64_t recipient) {
    return scramble(scramble(run ^ scramble(sequence)) ^ recipient);
}

} // namespace

void Fault::add(const std::string& run, std::uint64_t sequence) {
    ++count;
    if (examples.size() < named_examples_max)
        examples.push_back(run + '/' + std::to_string(sequence));
}

std::uint32_t Auditor::run_number(const std::string& run) {
    const auto [place, fresh] =
        run_numbers_.try_emplace(run, static_cast<std::uint32_t>(runs_.size()));
    if (fresh) runs_.push_back(run);
    return place->second;
}

void Auditor::append(const SourceLine& line) {
    Promise promise{line.sequence,   line.time_us, run_number(line.run),
                    line.recipients, line.outcome, addresses_.size()};
    if (line.addresses != nullptr &&
        (line.outcome == Outcome::accepted || line.outcome == Outcome::unknown)) {
        promise.addresses = static_cast<std::uint32_t>(line.addresses->size());
        for (const std::string& address : *line.addresses)
            addresses_.push_back(digest_of_address(address));
    }
    promises_.push_back(promise);
}

void Auditor::append_refusal(const SinkRefusal& refusal) {
    const std::uint64_t recipient = digest_of_address(refusal.recipient);
    if (!refusal.for_good) {
        put_off_.insert(recipient);
    } else if (refusal.run.empty()) {
        ++refused_[recipient];
    } else {
        refused_of_message_.insert(
            key_of(digest_of_text(refusal.run), refusal.sequence, recipient));
    }
}

void Auditor::append(const SinkLine& line) {
    const std::string_view recipient = line.recipient;
    const std::size_t at = recipient.rfind('@');
    const std::string_view domain =
        at == std::string_view::npos ? std::string_view{} : recipient.substr(at + 1);
    arrivals_.push_back({line.sequence, line.time_us, digest_of_address(recipient),
                         digest_of_text(domain), run_number(line.run), line.altered});
}

void Auditor::take_over(Auditor&& other) {
    std::vector<std::uint32_t> renamed;
    for (const std::string& run : other.runs_)
        renamed.push_back(run_number(run));
    const auto move = [&](auto& from, auto& to) {
        for (auto& record : from) {
            record.run = renamed[record.run];
            to.push_back(record);
        }
        from.clear();
    };
    for (Promise& promise : other.promises_)
        promise.addresses_at += addresses_.size();
    addresses_.insert(addresses_.end(), other.addresses_.begin(), other.addresses_.end());
    for (const auto& [recipient, times] : other.refused_)
        refused_[recipient] += times;
    refused_of_message_.merge(other.refused_of_message_);
    put_off_.merge(other.put_off_);
    move(other.promises_, promises_);
    move(other.arrivals_, arrivals_);
}

struct Auditor::Judging {
    Audit result;
    std::unordered_map<std::uint64_t, std::uint32_t> refusals_used;
    std::vector<std::uint64_t> here; // recipients of this message that arrived, in order
};

void Auditor::judge_missing(const Promise& promise, std::uint32_t arrived, Judging& judging) const {
    Audit& result = judging.result;
    const std::string& run = runs_[promise.run];
    const std::uint64_t run_digest = digest_of_text(run);
    for (std::uint32_t i = 0; i < promise.addresses && arrived < promise.recipients; ++i) {
        const std::uint64_t address = addresses_[promise.addresses_at + i];
        if (std::binary_search(judging.here.begin(), judging.here.end(), address)) continue;
        ++arrived;
        if (refused_of_message_.contains(key_of(run_digest, promise.sequence, address))) {
            ++result.refused;
            continue;
        }
        const auto refusals = refused_.find(address);
        if (refusals != refused_.end() && judging.refusals_used[address] < refusals->second) {
            ++judging.refusals_used[address];
            ++result.refused;
        } else if (put_off_.contains(address)) {
            result.put_off.add(run, promise.sequence);
        } else {
            result.lost.add(run, promise.sequence);
        }
    }
    for (; arrived < promise.recipients; ++arrived)
        result.lost.add(run, promise.sequence);
}

// Both sides in the order of their messages, then one walk along both.
Audit Auditor::finish() {
    Judging judging;
    Audit& result = judging.result;
    std::stable_sort(promises_.begin(), promises_.end(), by_message<Promise>);
    std::sort(arrivals_.begin(), arrivals_.end(), [](const Arrival& a, const Arrival& b) {
        return std::tie(a.run, a.sequence, a.recipient, a.time_us) <
               std::tie(b.run, b.sequence, b.recipient, b.time_us);
    });
    std::vector<Passage> passages;
    auto arrival = arrivals_.cbegin();
    const auto unexplained_until = [&](const Promise* next) {
        for (; arrival != arrivals_.cend() &&
               (next == nullptr ||
                std::tie(arrival->run, arrival->sequence) < std::tie(next->run, next->sequence));
             ++arrival) {
            if (arrival->altered) result.altered.add(runs_[arrival->run], arrival->sequence);
            result.unexplained.add(runs_[arrival->run], arrival->sequence);
        }
    };
    for (auto promise = promises_.cbegin(); promise != promises_.cend(); ++promise) {
        const auto following = promise + 1; // a message told of twice: the last word counts
        if (following != promises_.cend() && !by_message(*promise, *following)) continue;
        unexplained_until(&*promise);
        const std::string& run = runs_[promise->run];
        if (promise->outcome == Outcome::accepted) result.promised += promise->recipients;
        if (promise->outcome == Outcome::unknown) ++result.unknown_messages;
        std::uint32_t arrived = 0;
        judging.here.clear();
        const auto addresses =
            addresses_.cbegin() + static_cast<std::ptrdiff_t>(promise->addresses_at);
        const Arrival* before = nullptr;
        for (; arrival != arrivals_.cend() && arrival->run == promise->run &&
               arrival->sequence == promise->sequence;
             before = &*arrival++) {
            if (arrival->altered) result.altered.add(run, arrival->sequence);
            if (before != nullptr && before->recipient == arrival->recipient) {
                result.duplicated.add(run, arrival->sequence);
                continue;
            }
            if (promise->addresses != 0 &&
                std::find(addresses, addresses + promise->addresses, arrival->recipient) ==
                    addresses + promise->addresses) {
                result.misdelivered.add(run, arrival->sequence);
                continue;
            }
            ++arrived;
            judging.here.push_back(arrival->recipient);
            switch (promise->outcome) {
            case Outcome::accepted:
                ++result.delivered;
                if (arrival->time_us - promise->time_us > limits_.late_after.count())
                    result.late.add(run, arrival->sequence);
                passages.push_back({arrival->domain, arrival->time_us, promise->time_us,
                                    promise->sequence, promise->run});
                break;
            case Outcome::unknown:
                ++result.unknown_delivered;
                break;
            case Outcome::transient:
            case Outcome::permanent:
                result.unexplained.add(run, arrival->sequence);
                break;
            }
        }
        if (promise->outcome != Outcome::accepted) continue;
        if (arrived < promise->recipients) judge_missing(*promise, arrived, judging);
    }
    unexplained_until(nullptr);
    find_reordered(passages, result);
    return result;
}

void Auditor::find_reordered(std::vector<Passage>& passages, Audit& result) const {
    std::sort(passages.begin(), passages.end(), [](const Passage& a, const Passage& b) {
        return std::tie(a.domain, a.arrived_us, a.accepted_us) <
               std::tie(b.domain, b.arrived_us, b.accepted_us);
    });
    const Passage* before = nullptr;
    std::int64_t latest_us = 0;
    for (const Passage& passage : passages) {
        if (before == nullptr || before->domain != passage.domain) latest_us = passage.accepted_us;
        if (latest_us - passage.accepted_us > limits_.reorder_slack.count())
            result.reordered.add(runs_[passage.run], passage.sequence);
        latest_us = std::max(latest_us, passage.accepted_us);
        before = &passage;
    }
}

Audit audit(std::istream& source_ledger, std::istream& sink_ledger, AuditLimits limits) {
    Auditor auditor(limits);
    std::string text;
    while (std::getline(source_ledger, text)) {
        if (const auto line = parse_source_line(text)) auditor.append(*line);
    }
    while (std::getline(sink_ledger, text)) {
        if (const auto line = parse_sink_line(text)) auditor.append(*line);
    }
    return auditor.finish();
}

std::string to_text(const Audit& result) {
    std::string text =
        "promised " + std::to_string(result.promised) + "\ndelivered " +
        std::to_string(result.delivered) + "\nrefused by the sink " +
        std::to_string(result.refused) + "\nunknown " + std::to_string(result.unknown_messages) +
        " (arrived all the same: " + std::to_string(result.unknown_delivered) + ")\n";
    describe(text, "lost", result.lost);
    describe(text, "duplicated", result.duplicated);
    describe(text, "altered", result.altered);
    describe(text, "misdelivered", result.misdelivered);
    describe(text, "put off by the sink and not come again", result.put_off);
    describe(text, "unexplained", result.unexplained);
    describe(text, "late", result.late);
    describe(text, "reordered", result.reordered);
    return text;
}

} // namespace dataplane::loadgen
