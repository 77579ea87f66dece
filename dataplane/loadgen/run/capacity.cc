#include "dataplane/loadgen/run/capacity.h"

#include <algorithm>
#include <cmath>

namespace dataplane::loadgen {
namespace {

constexpr double rate_least = 1;     // below one message a second there is no knee to speak of
constexpr double repeat_start = 0.8; // of the last knee
constexpr double repeat_step = 1.15;
constexpr double golden = 0.618033988749895; // its multiples' fractions never fall together

} // namespace

std::string judge(const TrialFacts& facts, const CapacityOptions& options) {
    const auto due = static_cast<double>(facts.due);
    if (facts.due == 0) return "nothing was due";
    if (facts.failed != 0)
        return shown(static_cast<double>(facts.failed)) + " refused or broken off, or in part";
    if (static_cast<double>(facts.accepted) < options.accepted_share_min * due) {
        return "only " + shown(100 * static_cast<double>(facts.accepted) / due) +
               " % of what was due was accepted";
    }
    const auto p99_max = static_cast<double>(options.p99_max.count());
    if (facts.p99_us > p99_max)
        return "p99 " + shown(facts.p99_us / 1000) + " ms over " + shown(p99_max / 1000) + " ms";
    if (options.watch_backlog && facts.backlog > options.backlog_max_s * facts.rate) {
        return "backlog " + shown(facts.backlog) + ", more than " + shown(options.backlog_max_s) +
               " s of the rate";
    }
    return {};
}

CapacitySearch::CapacitySearch(CapacityOptions options) : options_(options) {
    begin_repeat();
}

std::optional<double> CapacitySearch::next() const {
    if (next_ == 0 || trials_.size() >= options_.trials_max) return std::nullopt;
    return next_;
}

void CapacitySearch::begin_repeat() {
    passed_ = failed_ = 0;
    tried_again_.clear();
    const double last = knees_.empty() ? 0 : knees_.back();
    const double place = std::fmod(golden * static_cast<double>(knees_.size()), 1.0);
    const double first = last * repeat_start / std::pow(repeat_step, place);
    next_ =
        last > 0 ? std::max(rate_least, first) : std::min(options_.rate_first, options_.rate_max);
    step_ = last > 0 ? repeat_step : 2;
}

void CapacitySearch::end_repeat() {
    knees_.push_back(passed_);
    brackets_.push_back(failed_ > passed_ ? failed_ - passed_ : 0);
    next_ = 0;
    if (knees_.size() < options_.repeats && passed_ > 0) begin_repeat();
}

void CapacitySearch::record(const TrialFacts& facts) {
    Trial trial{.facts = facts, .repeat = static_cast<unsigned>(knees_.size())};
    trial.why_not = judge(facts, options_);
    trial.passed = trial.why_not.empty();
    trials_.push_back(trial);
    if (trial.passed) {
        passed_ = std::max(passed_, facts.rate);
        if (failed_ != 0 && failed_ <= passed_) { // that one was bad luck: up again
            failed_ = 0;
            step_ = repeat_step;
        }
    } else {
        failed_ = failed_ == 0 ? facts.rate : std::min(failed_, facts.rate);
    }
    if (failed_ == 0) { // nothing failed yet: up
        if (passed_ >= options_.rate_max) {
            hit_ceiling_ = true;
            return end_repeat();
        }
        next_ = std::min(options_.rate_max, facts.rate * step_);
        return;
    }
    if (passed_ == 0) { // nothing passed yet: down
        if (facts.rate <= rate_least) return end_repeat();
        next_ = std::max(rate_least, failed_ / step_);
        return;
    }
    if (failed_ - passed_ > options_.precision * passed_) {
        next_ = (passed_ + failed_) / 2;
    } else if (std::find(tried_again_.begin(), tried_again_.end(), failed_) == tried_again_.end()) {
        tried_again_.push_back(failed_);
        next_ = failed_;
    } else {
        end_repeat();
    }
}

Estimate CapacitySearch::confidence() const {
    Estimate sure = estimate(knees_);
    sure.half_width += estimate(brackets_).mean;
    return sure;
}

std::string CapacitySearch::caveat() const {
    if (knees_.empty()) return "the search was broken off before it found a knee";
    if (knee() == 0) return "no rate passed, not even one message a second";
    if (hit_ceiling_) return "the highest rate that was allowed passed: the knee lies above";
    if (knees_.size() < options_.repeats && trials_.size() >= options_.trials_max)
        return "only " + std::to_string(knees_.size()) + " of " + std::to_string(options_.repeats) +
               " repeats were done within trials_max = " + std::to_string(options_.trials_max) +
               (knees_.size() < 2 ? ": nothing is known of how far the knee moves" : "");
    if (knees_.size() < 2) return "one repeat: nothing is known of how far the knee moves";
    const Estimate sure = estimate(knees_);
    if (sure.half_width > 0.25 * sure.mean)
        return "the repeats disagree by more than a quarter: longer trials, or a quieter machine";
    return {};
}

} // namespace dataplane::loadgen
