#include "dataplane/screen/screen.h"

#include <algorithm>
#include <cstring>
#include <hs/hs_runtime.h>
#include <limits>
#include <utility>

namespace dataplane::screen {
namespace {

constexpr std::string_view reject_text = "message refused by content policy";
constexpr std::string_view defer_text = "message deferred by content policy";
constexpr std::string_view failed_text = "message cannot be screened now, try again later";

template <auto release>
struct Release {
    template <class Handle>
    void operator()(Handle* handle) const noexcept {
        static_cast<void>(release(handle));
    }
};
hs_error_t close_silently(hs_stream_t* stream) noexcept {
    return hs_close_stream(stream, nullptr, nullptr, nullptr);
}
using DatabaseHandle = std::unique_ptr<hs_database_t, Release<hs_free_database>>;
using ScratchHandle = std::unique_ptr<hs_scratch_t, Release<hs_free_scratch>>;
using StreamHandle = std::unique_ptr<hs_stream_t, Release<close_silently>>;

ScreenError load_error(const char* which, hs_error_t result) {
    const std::string text = std::string{which} + " rule database: ";
    switch (result) {
    case HS_ARCH_ERROR:
        return {ScreenErrorKind::processor,
                text + "this processor lacks SSSE3, which Hyperscan needs"};
    case HS_DB_PLATFORM_ERROR:
        return {ScreenErrorKind::processor,
                text + "compiled for another kind of processor; compile it on this machine"};
    case HS_DB_VERSION_ERROR:
        return {ScreenErrorKind::bad_database, text + "compiled by another version of Hyperscan"};
    case HS_DB_MODE_ERROR:
        return {ScreenErrorKind::bad_database, text + "not a streaming database"};
    case HS_NOMEM:
        return {ScreenErrorKind::no_memory, text + "out of memory"};
    default:
        return {ScreenErrorKind::bad_database, text + "damaged (Hyperscan error " +
                                                   std::to_string(static_cast<int>(result)) + ")"};
    }
}

std::expected<DatabaseHandle, ScreenError> load_database(const char* which,
                                                         std::span<const std::byte> bytes) {
    if (bytes.empty()) return DatabaseHandle{};
    hs_database_t* loaded = nullptr;
    const hs_error_t result =
        hs_deserialize_database(reinterpret_cast<const char*>(bytes.data()), bytes.size(), &loaded);
    DatabaseHandle database{loaded};
    if (result != HS_SUCCESS) return std::unexpected(load_error(which, result));
    std::size_t stream_bytes = 0; // asks only for the mode
    const hs_error_t mode = hs_stream_size(database.get(), &stream_bytes);
    if (mode != HS_SUCCESS) return std::unexpected(load_error(which, mode));
    return database;
}

} // namespace

// --- RuleSet

struct RuleSet::Databases {
    DatabaseHandle header, body; // null: no rule looks there
};

RuleSet::RuleSet() = default;
RuleSet::~RuleSet() = default;

std::expected<std::shared_ptr<const RuleSet>, ScreenError>
RuleSet::load(std::span<const std::byte> header_database, std::span<const std::byte> body_database,
              std::vector<Rule> rules, std::int32_t score_reject) {
    if (hs_valid_platform() != HS_SUCCESS) return std::unexpected(load_error("any", HS_ARCH_ERROR));
    auto header = load_database("header", header_database);
    if (!header) return std::unexpected(std::move(header.error()));
    auto body = load_database("body", body_database);
    if (!body) return std::unexpected(std::move(body.error()));

    std::shared_ptr<RuleSet> loaded{new RuleSet};
    loaded->databases_ =
        std::make_unique<Databases>(Databases{std::move(*header), std::move(*body)});
    loaded->rules_ = std::move(rules);
    loaded->score_reject_ = score_reject;
    return loaded;
}

// --- One message

/// What one message needs; reused for the next, so that a warm shard allocates nothing.
struct ScanState {
    StreamHandle header, body;
    std::vector<std::uint8_t> hit;          // by rule
    std::vector<std::string_view> names;    // filled by finish()
    std::vector<AddedHeader> added_headers; // likewise
    std::uint32_t hit_count = 0;
    // Where in the search for the empty line that ends the header we are.
    enum class Place : std::uint8_t {
        line_start,
        line_start_cr,
        in_line,
        body
    } place = Place::line_start;
    bool failed = false;
    bool ended = false; // both streams are reset

    void forget() noexcept {
        if (hit_count != 0) std::ranges::fill(hit, std::uint8_t{0});
        names.clear();
        added_headers.clear();
        hit_count = 0;
        place = Place::line_start;
        failed = ended = false;
    }
    static int on_match(unsigned id, unsigned long long, unsigned long long, unsigned,
                        void* context) noexcept {
        auto& self = *static_cast<ScanState*>(context);
        // A database whose ids are not the rule table's came from a file: ignored, not asserted.
        if (id < self.hit.size() && self.hit[id] == 0) {
            self.hit[id] = 1;
            ++self.hit_count;
        }
        return 0;
    }
};

/// A rule set in use on one shard. The screener and every open scan hold it.
struct Generation final : base::RefCounted<Generation> {
    explicit Generation(std::shared_ptr<const RuleSet> owner) : rules(std::move(owner)) {
        idle.reserve(idle_scans_max);
    }
    void retire() noexcept { delete this; }

    [[nodiscard]] hs_error_t allocate_scratch(const hs_database_t* database) {
        if (database == nullptr) return HS_SUCCESS;
        hs_scratch_t* grown = scratch.release(); // Hyperscan frees it, or gives it back grown
        const hs_error_t result = hs_alloc_scratch(database, &grown);
        scratch.reset(result == HS_SUCCESS ? grown : nullptr);
        return result;
    }
    [[nodiscard]] std::unique_ptr<ScanState> open() {
        if (!idle.empty()) {
            auto state = std::move(idle.back());
            idle.pop_back();
            return state;
        }
        auto state = std::make_unique<ScanState>();
        const std::size_t count = rules->rules().size();
        state->hit.resize(count);
        state->names.reserve(count);
        state->added_headers.reserve(count);
        const bool opened =
            open_stream(header(), state->header) && open_stream(body(), state->body);
        if (!opened) state->failed = true;
        return state;
    }
    [[nodiscard]] static bool open_stream(const hs_database_t* database, StreamHandle& stream) {
        if (database == nullptr) return true;
        hs_stream_t* opened = nullptr;
        const hs_error_t result = hs_open_stream(database, 0, &opened);
        stream.reset(opened);
        return result == HS_SUCCESS;
    }
    [[nodiscard]] const hs_database_t* header() const noexcept;
    [[nodiscard]] const hs_database_t* body() const noexcept;

    void scan(ScanState& state, StreamHandle& stream, std::span<const std::byte> bytes) noexcept {
        if (stream == nullptr || bytes.empty()) return;
        CHECK(bytes.size() <= std::numeric_limits<unsigned>::max());
        const hs_error_t result = hs_scan_stream(
            stream.get(), reinterpret_cast<const char*>(bytes.data()),
            static_cast<unsigned>(bytes.size()), 0, scratch.get(), ScanState::on_match, &state);
        if (result != HS_SUCCESS) state.failed = true;
    }
    /// Ends a stream, which is when patterns anchored to the end match, and readies it for the next
    /// message.
    void end(ScanState& state, StreamHandle& stream) noexcept {
        if (stream == nullptr) return;
        const hs_error_t result =
            hs_reset_stream(stream.get(), 0, scratch.get(), ScanState::on_match, &state);
        if (result != HS_SUCCESS) state.failed = true;
    }

    std::shared_ptr<const RuleSet> rules; // shared by all shards; see screen.h
    ScratchHandle scratch;
    std::vector<std::unique_ptr<ScanState>> idle;
};

const hs_database_t* Generation::header() const noexcept {
    return rules->databases_->header.get();
}
const hs_database_t* Generation::body() const noexcept {
    return rules->databases_->body.get();
}

namespace {

/// How many of the bytes belong to the header, its empty line included. Moves `place` along.
std::size_t header_bytes(ScanState::Place& place, std::span<const std::byte> bytes) noexcept {
    using Place = ScanState::Place;
    constexpr std::byte cr{'\r'}, lf{'\n'};
    std::size_t at = 0;
    while (at < bytes.size() && place != Place::body) {
        switch (place) {
        case Place::in_line: {
            const void* found = std::memchr(bytes.data() + at, '\n', bytes.size() - at);
            if (found == nullptr) return bytes.size();
            at = static_cast<std::size_t>(static_cast<const std::byte*>(found) - bytes.data()) + 1;
            place = Place::line_start;
            break;
        }
        case Place::line_start:
            place = bytes[at] == lf   ? Place::body
                    : bytes[at] == cr ? Place::line_start_cr
                                      : Place::in_line;
            ++at;
            break;
        case Place::line_start_cr:
            place = bytes[at] == lf ? Place::body : Place::in_line;
            ++at;
            break;
        case Place::body:
            break;
        }
    }
    return at;
}

std::string_view text_or(const Rule* rule, std::string_view otherwise) noexcept {
    return rule != nullptr && !rule->text.empty() ? std::string_view{rule->text} : otherwise;
}

} // namespace

Scan::Scan() noexcept = default;
Scan::Scan(base::Ref<Generation> generation, std::unique_ptr<ScanState> state) noexcept
    : generation_(std::move(generation)), state_(std::move(state)) {}
Scan::Scan(Scan&& other) noexcept = default;
Scan& Scan::operator=(Scan&& other) noexcept {
    if (this != &other) {
        give_back();
        generation_ = std::move(other.generation_);
        state_ = std::move(other.state_);
    }
    return *this;
}
Scan::~Scan() {
    give_back();
}

void Scan::give_back() noexcept {
    if (state_ == nullptr) return;
    auto state = std::move(state_);
    if (!state->ended) {
        generation_->end(*state, state->header);
        generation_->end(*state, state->body);
    }
    // A state that failed may hold a stream that Hyperscan no longer vouches for.
    const bool keep = !state->failed && generation_->idle.size() < idle_scans_max;
    state->forget();
    if (keep) generation_->idle.push_back(std::move(state)); // reserved: never throws
    generation_.reset();
}

void Scan::feed(std::span<const std::byte> bytes) noexcept {
    if (state_ == nullptr) return;
    CHECK(!state_->ended);
    if (state_->place != ScanState::Place::body) {
        const std::size_t header = header_bytes(state_->place, bytes);
        generation_->scan(*state_, state_->header, bytes.first(header));
        bytes = bytes.subspan(header);
    }
    // The header's stream stays open until finish(): only then do both end, in one place.
    generation_->scan(*state_, state_->body, bytes);
}

Verdict Scan::finish() {
    Verdict verdict;
    if (state_ == nullptr) return verdict;
    ScanState& state = *state_;
    CHECK(!state.ended);
    generation_->end(state, state.header);
    generation_->end(state, state.body);
    state.ended = true;

    const RuleSet& rule_set = *generation_->rules;
    const Rule* reject = nullptr;
    const Rule* defer = nullptr;
    std::int64_t score = 0;
    if (state.hit_count != 0) {
        for (std::size_t i = 0; i < state.hit.size(); ++i) {
            if (state.hit[i] == 0) continue;
            const Rule& rule = rule_set.rules()[i];
            state.names.push_back(rule.name);
            switch (rule.action) {
            case Rule::Action::reject:
                if (reject == nullptr) reject = &rule;
                break;
            case Rule::Action::defer:
                if (defer == nullptr) defer = &rule;
                break;
            case Rule::Action::tag:
                state.added_headers.push_back({rule.header, rule.value});
                break;
            case Rule::Action::score:
                score += rule.score;
                break;
            }
        }
    }
    verdict.rules = state.names;
    verdict.headers = state.added_headers;
    verdict.score = static_cast<std::int32_t>(std::clamp<std::int64_t>(
        score, std::numeric_limits<std::int32_t>::min(), std::numeric_limits<std::int32_t>::max()));

    // A hit stands even when the screening broke off after it; only "no hit" then means nothing.
    const bool over_score = rule_set.score_reject_ > 0 && score >= rule_set.score_reject_;
    if (reject != nullptr || over_score) {
        verdict.action = Verdict::Action::reject;
        verdict.text = text_or(reject, reject_text);
    } else if (defer != nullptr || state.failed) {
        verdict.action = Verdict::Action::defer;
        verdict.text = text_or(defer, state.failed ? failed_text : defer_text);
    }
    return verdict;
}

// --- Screener

Screener::Screener() noexcept = default;
Screener::~Screener() = default;

std::expected<void, ScreenError> Screener::use(std::shared_ptr<const RuleSet> rules) {
    const bool nothing = rules == nullptr || (rules->databases_->header == nullptr &&
                                              rules->databases_->body == nullptr);
    if (nothing) {
        generation_.reset();
        return {};
    }
    base::Ref<Generation> next{new Generation{std::move(rules)}};
    for (const hs_database_t* database : {next->header(), next->body()}) {
        const hs_error_t result = next->allocate_scratch(database);
        if (result != HS_SUCCESS) return std::unexpected(load_error("any", result));
    }
    generation_ = std::move(next);
    return {};
}

Scan Screener::begin() {
    if (!generation_) return {};
    return Scan{generation_, generation_->open()};
}

} // namespace dataplane::screen
