// audit.h: compares the source's ledger of promises with the sink's ledger of arrivals.
//
// Scope      Counts per recipient. Where the source tells whom a message was for, an arrival anywhere else
//            is a misdelivery, and stands for nobody; of a source's file only the number is known. A
//            message whose outcome the source does not know may arrive or
//            not; one that was refused must not. A duplicate is counted, not condemned: at a crash
//            SMTP makes some unavoidable. So are late and reordered arrivals: SMTP promises neither
//            a time nor an order.
// Owns       Some 50 bytes for each line it was given; the lines may come in any order.
// Threading  One thread; several Auditors, one for each thread, are put together with take_over().
#pragma once

#include "dataplane/loadgen/ledger.h"
#include "dataplane/loadgen/limits.h"

#include <chrono>
#include <cstdint>
#include <deque>
#include <istream>
#include <map>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace dataplane::loadgen {

/// A count and the first few sequence numbers behind it.
struct Fault {
    std::uint64_t count = 0;
    std::vector<std::string> examples; // "RUN/SEQ", at most named_examples_max
    void add(const std::string& run, std::uint64_t sequence);
};

struct Audit {
    std::uint64_t promised = 0;  // recipients of accepted messages
    std::uint64_t delivered = 0; // recipients of accepted messages that arrived where they should
    std::uint64_t refused = 0;   // of the others, those that the sink refused for good
    std::uint64_t unknown_messages = 0;
    std::uint64_t unknown_delivered = 0; // recipients of those that arrived all the same
    Fault lost, duplicated, altered;
    Fault misdelivered; // arrived at somebody whom the message was not for
    Fault put_off; // not come, but the sink itself had said 4xx to the last that was heard of it
    Fault unexplained; // arrived though refused or never sent
    Fault late, reordered;

    /// Nothing accepted was lost, and nothing arrived altered or where it should not.
    [[nodiscard]] bool passed() const noexcept {
        return lost.count == 0 && altered.count == 0 && misdelivered.count == 0;
    }
    /// Recipients of whom the sink neither has a copy nor wants none.
    [[nodiscard]] std::uint64_t outstanding() const noexcept { return lost.count + put_off.count; }
};

struct AuditLimits {
    std::chrono::microseconds late_after{
        std::chrono::seconds{60}}; // between the 250 and the arrival
    // A delivery is reordered when another one to the same domain had arrived before it whose message
    // was accepted by so much later. Connections work side by side: some slack is no fault.
    std::chrono::microseconds reorder_slack{std::chrono::seconds{1}};
};

class Auditor final : public Ledger {
public:
    explicit Auditor(AuditLimits limits = {}) : limits_(limits) {}

    void append(const SourceLine& line) override;
    void append(const SinkLine& line) override;
    void append_refusal(const SinkRefusal& refusal) override;
    /// Adds everything that `other` was given; the limits stay.
    void take_over(Auditor&& other);
    /// May be called again, after more lines have come.
    [[nodiscard]] Audit finish();

private:
    struct Promise {
        std::uint64_t sequence = 0;
        std::int64_t time_us = 0;
        std::uint32_t run = 0;
        std::uint32_t recipients = 0;
        Outcome outcome = Outcome::unknown;
        std::size_t addresses_at = 0; // in addresses_
        std::uint32_t addresses = 0;
    };
    struct Arrival {
        std::uint64_t sequence = 0;
        std::int64_t time_us = 0;
        std::uint64_t recipient = 0; // digests: two of one message agree with a chance of 2^-64
        std::uint64_t domain = 0;
        std::uint32_t run = 0;
        bool altered = false;
    };
    struct Passage { // one delivery of an accepted message, for the order within its domain
        std::uint64_t domain;
        std::int64_t arrived_us;
        std::int64_t accepted_us;
        std::uint64_t sequence;
        std::uint32_t run;
    };

    struct Judging; // what one finish() keeps while it walks

    [[nodiscard]] std::uint32_t run_number(const std::string& run);
    void judge_missing(const Promise& promise, std::uint32_t arrived, Judging& judging) const;
    void find_reordered(std::vector<Passage>& passages, Audit& result) const;

    AuditLimits limits_;
    std::map<std::string, std::uint32_t> run_numbers_;
    std::vector<std::string> runs_;
    // Deques: growing moves nothing, so that no message of the run waits for a copy of the ledger.
    std::deque<Promise> promises_;
    std::deque<std::uint64_t> addresses_; // digests, where the source told them
    std::deque<Arrival> arrivals_;
    // Refused for good by address alone, each as often as it was: of two messages to one address only
    // one is excused by one refusal.
    std::unordered_map<std::uint64_t, std::uint32_t> refused_;
    std::unordered_set<std::uint64_t> refused_of_message_; // of whom the message is known
    std::unordered_set<std::uint64_t> put_off_;            // addresses
};

[[nodiscard]] Audit audit(std::istream& source_ledger, std::istream& sink_ledger,
                          AuditLimits limits = {});
[[nodiscard]] std::string to_text(const Audit& result);

} // namespace dataplane::loadgen
