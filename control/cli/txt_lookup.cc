#include "control/cli/txt_lookup.h"

#include <chrono>
#include <poll.h>
#include <unbound.h>

namespace control::cli {
namespace {

constexpr int type_txt = 16, class_in = 1; // RFC 1035 §3.2
constexpr std::chrono::seconds answer_time{15};

struct Answer {
    bool came = false;
    int error = 0;
    std::unique_ptr<ub_result, decltype(&ub_resolve_free)> result{nullptr, &ub_resolve_free};
};

void take(void* answer, int error, ub_result* result) {
    auto* const to = static_cast<Answer*>(answer);
    to->came = true;
    to->error = error;
    to->result.reset(result);
}

/// The strings of one record (§3.3.14), each with its length in front.
std::string strings_of(const char* data, int bytes) {
    std::string text;
    for (int at = 0; at < bytes;) {
        const int length = static_cast<unsigned char>(data[at]);
        if (at + 1 + length > bytes) break;
        text.append(data + at + 1, static_cast<std::size_t>(length));
        at += 1 + length;
    }
    return text;
}

} // namespace

void TxtLookup::Close::operator()(ub_ctx* context) const noexcept {
    ub_ctx_delete(context);
}

std::expected<TxtLookup, std::string> TxtLookup::open(const std::vector<std::string>& servers) {
    TxtLookup made{ub_ctx_create()};
    ub_ctx* const context = made.context_.get();
    if (context == nullptr) return std::unexpected("libunbound does not start");
    static_cast<void>(ub_ctx_set_option(context, "do-not-query-localhost:", "no"));
    static_cast<void>(ub_ctx_async(context, 1)); // a thread of its own, not a process
    if (servers.empty()) static_cast<void>(ub_ctx_resolvconf(context, nullptr));
    for (const std::string& server : servers) {
        if (const int error = ub_ctx_set_fwd(context, server.c_str()); error != 0)
            return std::unexpected("the name server " + server + ": " + ub_strerror(error));
    }
    return made;
}

std::expected<std::vector<std::string>, std::string> TxtLookup::ask(const std::string& name) {
    Answer answer;
    int id = 0;
    const int refused =
        ub_resolve_async(context_.get(), name.c_str(), type_txt, class_in, &answer, &take, &id);
    if (refused != 0)
        return std::unexpected(std::string{"DNS cannot be asked: "} + ub_strerror(refused));
    const auto end = std::chrono::steady_clock::now() + answer_time;
    while (!answer.came) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
            end - std::chrono::steady_clock::now());
        pollfd wait{.fd = ub_fd(context_.get()), .events = POLLIN, .revents = 0};
        if (left.count() <= 0) {
            static_cast<void>(ub_cancel(context_.get(), id));
            return std::unexpected("DNS does not answer");
        }
        if (poll(&wait, 1, static_cast<int>(left.count())) > 0) ub_process(context_.get());
    }
    if (answer.error != 0) return std::unexpected(std::string{"DNS: "} + ub_strerror(answer.error));
    const ub_result& result = *answer.result;
    if (result.bogus != 0) return std::unexpected("DNS: the answer's DNSSEC signature is wrong");
    std::vector<std::string> records;
    if (result.havedata != 0) {
        for (int i = 0; result.data[i] != nullptr; ++i)
            records.push_back(strings_of(result.data[i], result.len[i]));
        return records;
    }
    if (result.rcode != 0 && result.nxdomain == 0)
        return std::unexpected("DNS answers with error " + std::to_string(result.rcode));
    return records;
}

} // namespace control::cli
