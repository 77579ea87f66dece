#include "tests/sim/audit.h"

#include "queue/envelope.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>

namespace tests::sim {
namespace {

constexpr std::size_t violations_max = 12;
// What stands between a reply's arrival and its record on the disk: the batch in flight, and one behind it.
constexpr base::Duration settle_time = std::chrono::milliseconds{250};
// A refused commit's abort record comes with the next batch that can be written.
constexpr base::Duration abort_time = std::chrono::seconds{5};
// One way through the simulated network, and a turn.
constexpr base::Duration flight_time = std::chrono::milliseconds{20};

[[nodiscard]] std::string seconds(TimePoint when) {
    std::array<char, 32> text;
    const double value = std::chrono::duration<double>(when.time_since_epoch()).count();
    std::snprintf(text.data(), text.size(), "%.6f", value);
    return text.data();
}

[[nodiscard]] bool starts_with_field(std::string_view line) {
    static constexpr std::array<std::string_view, 4> names{
        "Received: ", "Message-ID: ", "Date: ", "X-Sim-Tag: "};
    return std::ranges::any_of(names,
                               [&](std::string_view name) { return line.starts_with(name); });
}

} // namespace

void Totals::add(const Totals& other) noexcept {
    letters += other.letters;
    accepted += other.accepted;
    refused += other.refused;
    unknown += other.unknown;
    recipients += other.recipients;
    delivered += other.delivered;
    bounced += other.bounced;
    expired += other.expired;
    duplicates += other.duplicates;
    reports += other.reports;
    extra_reports += other.extra_reports;
    unwanted += other.unwanted;
    crashes += other.crashes;
    restarts += other.restarts;
}

std::string Totals::to_string() const {
    const auto item = [](const char* name, std::uint64_t value) {
        return ' ' + std::string{name} + '=' + std::to_string(value);
    };
    return "letters=" + std::to_string(letters) + item("accepted", accepted) +
           item("refused", refused) + item("unknown", unknown) + item("recipients", recipients) +
           item("delivered", delivered) + item("bounced", bounced) + item("expired", expired) +
           item("duplicates", duplicates) + item("reports", reports) +
           item("extra_reports", extra_reports) + item("unwanted", unwanted) +
           item("crashes", crashes) + item("restarts", restarts);
}

std::optional<AddressNumbers> parse_address(std::string_view address) {
    AddressNumbers numbers;
    const auto number = [&](char tag, std::uint32_t& value) {
        if (!address.starts_with(tag)) return false;
        const auto parsed =
            std::from_chars(address.data() + 1, address.data() + address.size(), value);
        if (parsed.ec != std::errc{}) return false;
        address.remove_prefix(static_cast<std::size_t>(parsed.ptr - address.data()));
        return true;
    };
    std::uint32_t recipient = 0;
    if (number('r', recipient)) {
        numbers.recipient = recipient;
        if (!address.starts_with('.')) return std::nullopt;
        address.remove_prefix(1);
    }
    if (!number('m', numbers.letter) || !address.starts_with('@')) return std::nullopt;
    return numbers;
}

Letter& Audit::new_letter() {
    Letter& letter = letters_.emplace_back();
    letter.number = static_cast<std::uint32_t>(letters_.size() - 1);
    letter.begun = now_;
    return letter;
}

void Audit::answer(Letter& letter, int code) {
    letter.code = code;
    letter.answered = now_;
    letter.state = code / 100 == 2 ? Letter::State::accepted : Letter::State::refused;
    if (code / 100 == 2) ++acknowledged_;
}

// ---- what destinations tell

std::size_t Audit::arrived(Arrival arrival) {
    const std::size_t index = deliveries_.size();
    deliveries_.push_back({.at = now_});
    const auto sender = parse_address(arrival.sender);
    const auto first = parse_address(arrival.recipients.front());
    if (first && !first->recipient) {
        take_report(arrival, index);
    } else if (first && (sender || arrival.sender.empty())) {
        take_letter(arrival, index);
    } else {
        violation("a destination got mail from <" + arrival.sender + "> to <" +
                  arrival.recipients.front() + ">, which nobody sent");
    }
    return index;
}

void Audit::replied(std::size_t arrival) {
    deliveries_[arrival].replied = now_;
}

void Audit::take_letter(const Arrival& arrival, std::size_t index) {
    for (const std::string& address : arrival.recipients) {
        const auto numbers = parse_address(address);
        if (!numbers || !numbers->recipient || numbers->letter >= letters_.size() ||
            *numbers->recipient >= letters_[numbers->letter].recipients.size()) {
            violation("recipient <" + address + "> was never named by a client");
            continue;
        }
        const Letter& letter = letters_[numbers->letter];
        const Letter::Recipient& recipient = letter.recipients[*numbers->recipient];
        if (recipient.address != address)
            violation("recipient <" + recipient.address + "> became <" + address + ">");
        if (letter.sender != arrival.sender) {
            violation("letter " + std::to_string(letter.number) + " came from <" + arrival.sender +
                      ">");
        }
        if (terms_.provider_of_domain.at(recipient.domain) != arrival.provider) {
            violation("<" + address + "> went to provider " + std::to_string(arrival.provider));
        }
        if (&address == &arrival.recipients.front()) check_content(letter, arrival);
        facts_[{letter.number, *numbers->recipient}].arrivals.push_back(index);
    }
}

void Audit::check_content(const Letter& letter, const Arrival& arrival) {
    const std::string name = "letter " + std::to_string(letter.number);
    std::string_view got = arrival.content;
    if (arrival.by_data && !letter.content.ends_with("\r\n") && got.ends_with("\r\n"))
        got.remove_suffix(2);
    if (!got.ends_with(letter.content)) {
        return violation(name + " was altered: " + std::to_string(arrival.content.size()) +
                         " bytes came, " + std::to_string(letter.content.size()) + " were sent");
    }
    std::string_view added = got.substr(0, got.size() - letter.content.size());
    if (!added.starts_with("Received: from ")) violation(name + " has no Received field in front");
    bool tagged = false;
    while (!added.empty()) {
        const std::size_t end = added.find("\r\n");
        const std::string_view line = added.substr(0, end);
        if (end == std::string_view::npos)
            return violation(name + " has an added line without an end");
        const bool blank = line.empty() && added.size() == 2; // before content that has no header
        if (!blank && !line.starts_with('\t') && !line.starts_with(' ') &&
            !starts_with_field(line)) {
            return violation(name +
                             " has a strange line in front: " + std::string{line.substr(0, 80)});
        }
        tagged |= line.starts_with("X-Sim-Tag: ");
        added.remove_prefix(end + 2);
    }
    if (tagged != letter.tagged) violation(name + (tagged ? " was tagged" : " was not tagged"));
}

void Audit::take_report(const Arrival& arrival, std::size_t index) {
    const auto numbers = parse_address(arrival.recipients.front());
    if (!arrival.sender.empty()) violation("a report has the sender <" + arrival.sender + ">");
    if (arrival.recipients.size() != 1 || numbers->letter >= letters_.size()) {
        return violation("a report went to <" + arrival.recipients.front() + "> and others");
    }
    const Letter& letter = letters_[numbers->letter];
    const auto field = [](std::string_view line,
                          std::string_view name) -> std::optional<std::string> {
        if (!line.starts_with(name)) return std::nullopt;
        return std::string{line.substr(name.size())};
    };
    std::string id, recipient;
    std::string_view rest = arrival.content;
    bool told = false;
    while (!rest.empty()) {
        const std::size_t end = std::min(rest.find("\r\n"), rest.size());
        const std::string_view line = rest.substr(0, end);
        rest.remove_prefix(std::min(end + 2, rest.size()));
        if (auto value = field(line, "Message-ID: "); value && id.empty()) id = *value;
        if (auto value = field(line, "Final-Recipient: rfc822; ")) recipient = *value;
        auto action = field(line, "Action: ");
        if (!action) continue;
        told = true;
        const auto about = parse_address(recipient);
        if (!about || !about->recipient || about->letter != letter.number ||
            *about->recipient >= letter.recipients.size()) {
            violation("a report to <" + arrival.recipients.front() + "> is about <" + recipient +
                      ">");
            continue;
        }
        facts_[{letter.number, *about->recipient}].reports.push_back({*action, id, now_});
    }
    if (!told || id.empty())
        violation("a report to <" + arrival.recipients.front() + "> says nothing");
    ++totals_.reports;
    report_arrivals_[id].push_back(index);
}

void Audit::refused(std::string_view sender, std::span<const std::string> recipients,
                    std::size_t provider) {
    const auto from = parse_address(sender);
    if (recipients.empty() && from) refused_whole_.emplace(std::pair{from->letter, provider}, now_);
    for (const std::string& address : recipients) {
        const auto numbers = parse_address(address);
        if (!numbers || !numbers->recipient) continue;
        RecipientFacts& facts = facts_[{numbers->letter, *numbers->recipient}];
        facts.refused_at = std::min(facts.refused_at, now_);
    }
}

void Audit::size_limit(std::size_t provider, std::uint64_t bytes) {
    const auto known = size_limits_.find(provider);
    if (known == size_limits_.end() || known->second > bytes) size_limits_[provider] = bytes;
}

// ---- the world

void Audit::crashed() {
    ++totals_.crashes;
    crashes_.push_back(now_);
    for (Letter& letter : letters_) { // their clients' connections are gone
        if (letter.state == Letter::State::complete) letter.state = Letter::State::unknown;
    }
}

void Audit::cut() {
    ++totals_.restarts;
    cuts_.push_back(now_);
}

void Audit::disk_fails(bool failing) {
    if (failing && disk_failing_++ == 0) disk_failures_.push_back({.begin = now_});
    if (!failing && --disk_failing_ == 0) disk_failures_.back().end = now_;
}

void Audit::violation(std::string text) {
    if (violations_.size() < violations_max)
        violations_.push_back(seconds(now_) + " " + std::move(text));
}

void Audit::trace(std::string_view what, std::string_view text) {
    const auto mix = [this](const void* bytes, std::size_t count) {
        for (std::size_t i = 0; i < count; ++i) {
            hash_ = (hash_ ^ static_cast<const unsigned char*>(bytes)[i]) * 0x100000001b3ULL;
        }
    };
    const auto now = now_.time_since_epoch().count();
    mix(&now, sizeof now);
    mix(what.data(), what.size());
    mix(text.data(), text.size());
    if (print_trace_) {
        std::printf("%s %.*s: %.*s\n", seconds(now_).c_str(), static_cast<int>(what.size()),
                    what.data(), static_cast<int>(text.size()), text.data());
    }
}

// ---- judgement

bool Audit::crash_within(TimePoint from, TimePoint to) const noexcept {
    return std::ranges::any_of(crashes_,
                               [&](TimePoint when) { return from <= when && when <= to; });
}

/// Whether what the relay learned in this time may never have been written down.
bool Audit::forgotten(TimePoint from, TimePoint to) const noexcept {
    if (from == TimePoint::max()) return false;
    return crash_within(from, to + settle_time) ||
           std::ranges::any_of(disk_failures_, [&](const Span& span) {
               return span.begin <= to + settle_time && from <= span.end;
           });
}

/// Whether the relay may not know that this was taken: the reply got lost, came too late, or the relay
/// died before it was written down.
bool Audit::in_doubt(const Delivery& delivery) const noexcept {
    if (delivery.replied == TimePoint::max()) return true;
    if (delivery.replied - delivery.at >= terms_.answer_time - std::chrono::seconds{1}) return true;
    if (forgotten(delivery.at, delivery.replied)) return true;
    return std::ranges::any_of(cuts_, [&](TimePoint when) {
        return delivery.at <= when && when <= delivery.replied + flight_time;
    });
}

void Audit::judge_repeats(std::string_view what, std::span<const std::size_t> arrivals) {
    for (std::size_t i = 0; i + 1 < arrivals.size(); ++i) {
        ++totals_.duplicates;
        const Delivery& earlier = deliveries_[arrivals[i]];
        if (in_doubt(earlier)) continue;
        violation(std::string{what} + " arrived again at " +
                  seconds(deliveries_[arrivals[i + 1]].at) + ", although its 250 was sent at " +
                  seconds(earlier.replied));
    }
}

TimePoint Audit::first_refusal(const Letter& letter, std::uint32_t index) const {
    TimePoint first = TimePoint::max();
    const auto facts = facts_.find({letter.number, index});
    if (facts != facts_.end()) first = facts->second.refused_at;
    const auto whole = refused_whole_.find(
        {letter.number, terms_.provider_of_domain.at(letter.recipients[index].domain)});
    return whole == refused_whole_.end() ? first : std::min(first, whole->second);
}

/// By an operator, who names a domain and ends whole messages.
bool Audit::given_up(const Letter& letter, TimePoint by, bool silently) const noexcept {
    return std::ranges::any_of(given_up_, [&](const GivenUp& order) {
        return order.at <= by && order.at >= letter.begun && (!silently || order.silently) &&
               std::ranges::find(letter.recipients, order.domain, &Letter::Recipient::domain) !=
                   letter.recipients.end();
    });
}

bool Audit::may_bounce(const Letter& letter, std::uint32_t index, TimePoint when) const {
    const std::size_t provider = terms_.provider_of_domain.at(letter.recipients[index].domain);
    if (provider == Terms::no_provider) return true;
    if (given_up(letter, when, false)) return true;
    if (when - letter.begun >= terms_.expiry_min) return true;
    if (first_refusal(letter, index) <= when) return true;
    const auto limit = size_limits_.find(provider);
    return limit != size_limits_.end() && limit->second < letter.content.size() + 2048;
}

void Audit::judge_recipient(const Letter& letter, std::uint32_t index) {
    const Letter::Recipient& recipient = letter.recipients[index];
    const RecipientFacts& facts = facts_[{letter.number, index}];
    std::set<std::string> failed;
    TimePoint failed_at = TimePoint::max();
    for (const Report& report : facts.reports) {
        if (report.action != "failed") continue;
        failed.insert(report.id);
        failed_at = std::min(failed_at, report.at);
    }
    const bool notify_failure =
        !letter.sender.empty() && (recipient.notify == queue::notify_absent ||
                                   (recipient.notify & queue::notify_failure) != 0);
    judge_repeats(recipient.address, facts.arrivals);

    for (const Report& report : facts.reports) {
        const bool wanted =
            report.action == "failed"    ? notify_failure
            : report.action == "relayed" ? (recipient.notify & queue::notify_success) != 0
            : report.action == "delayed" ? recipient.notify == queue::notify_absent ||
                                               (recipient.notify & queue::notify_delay) != 0
                                         : false;
        if (!wanted || (recipient.notify & queue::notify_never) != 0) {
            violation("an unasked \"" + report.action + "\" report about <" + recipient.address +
                      ">");
        }
    }
    if (failed.size() > 1) {
        totals_.extra_reports += failed.size() - 1;
        if (crashes_.empty() && cuts_.empty())
            violation("two reports about <" + recipient.address + ">");
    }

    const bool delivered = !facts.arrivals.empty();
    if (delivered) ++totals_.delivered;
    if (delivered && !failed.empty()) {
        // Or the report was queued, and the relay died before it knew.
        const bool doubtful = std::ranges::any_of(facts.arrivals, [&](std::size_t arrival) {
            const Delivery& delivery = deliveries_[arrival];
            const bool end_forgotten = std::ranges::any_of(given_up_, [&](const GivenUp& order) {
                return order.at <= delivery.at && forgotten(order.at, delivery.at);
            });
            return in_doubt(delivery) || end_forgotten ||
                   forgotten(first_refusal(letter, index), delivery.at);
        });
        if (!doubtful)
            violation("<" + recipient.address + "> was delivered, and reported as failed");
    }
    if (!failed.empty() && !may_bounce(letter, index, failed_at)) {
        violation("<" + recipient.address + "> was reported as failed without a reason");
    }
    if (delivered) return;

    if (notify_failure && failed.empty() && !given_up(letter, now_, true)) {
        return violation("<" + recipient.address + "> was acknowledged at " +
                         seconds(letter.answered) + " and is lost");
    }
    const TimePoint end = failed.empty() ? now_ : failed_at;
    if (!may_bounce(letter, index, end)) {
        return violation("<" + recipient.address +
                         "> was acknowledged, and vanished without a reason");
    }
    ++(first_refusal(letter, index) <= end ? totals_.bounced : totals_.expired);
}

/// A message that nobody promised to deliver.
void Audit::judge_silence(const Letter& letter) {
    for (std::uint32_t index = 0; index < letter.recipients.size(); ++index) {
        const auto facts = facts_.find({letter.number, index});
        if (facts == facts_.end() ||
            (facts->second.arrivals.empty() && facts->second.reports.empty()))
            continue;
        const std::string name = "<" + letter.recipients[index].address + ">";
        if (letter.state == Letter::State::refused &&
            forgotten(letter.answered - abort_time, letter.answered + abort_time)) {
            ++totals_
                  .unwanted; // its record was on the disk, and the relay died before it was taken back
            judge_repeats(name, facts->second.arrivals);
            continue;
        }
        if (letter.state == Letter::State::refused) {
            violation(name + " was delivered or reported, although the message was answered with " +
                      std::to_string(letter.code));
        } else {
            violation(name + " was delivered or reported, although the message was never complete");
        }
    }
}

void Audit::judge(const Letter& letter) {
    ++totals_.letters;
    switch (letter.state) {
    case Letter::State::open:
        return judge_silence(letter);
    case Letter::State::refused:
        ++totals_.refused;
        return judge_silence(letter);
    case Letter::State::accepted:
        ++totals_.accepted;
        break;
    case Letter::State::complete:
        violation("letter " + std::to_string(letter.number) + " never got an answer");
        return;
    case Letter::State::unknown:
        ++totals_.unknown;
        break;
    }
    if (!letter.forbidden.empty() && letter.state == Letter::State::accepted) {
        violation("letter " + std::to_string(letter.number) + " was accepted: " + letter.forbidden);
    }
    const auto heard_of_recipient = [&](std::uint32_t index) {
        const auto facts = facts_.find({letter.number, index});
        return facts != facts_.end() &&
               !(facts->second.arrivals.empty() && facts->second.reports.empty());
    };
    bool survived = letter.state == Letter::State::accepted; // one recipient served: all must be
    for (std::uint32_t index = 0; index < letter.recipients.size(); ++index)
        survived |= heard_of_recipient(index);
    for (std::uint32_t index = 0; index < letter.recipients.size(); ++index) {
        const Letter::Recipient& recipient = letter.recipients[index];
        const bool heard_of = heard_of_recipient(index);
        if (heard_of && !letter.forbidden.empty()) {
            violation("<" + recipient.address + "> got through: " + letter.forbidden);
        }
        if (recipient.code >= 400) {
            if (heard_of)
                violation("<" + recipient.address + "> was refused with " +
                          std::to_string(recipient.code) + ", and served");
            continue;
        }
        if (recipient.code == 0 && !heard_of) continue; // perhaps refused, and the connection broke
        if (!survived) continue;
        ++totals_.recipients;
        judge_recipient(letter, index);
    }
}

void Audit::close() {
    for (const Letter& letter : letters_)
        judge(letter);
    for (const auto& [id, arrivals] : report_arrivals_)
        judge_repeats("report " + id, arrivals);
}

} // namespace tests::sim
