// txt_lookup.h: TXT records of a name, by libunbound.
//
// Scope      One question at a time, for a person who waits.
// Owns       libunbound's context.
// Threading  One.
// Failure    A sentence. That there is no record is an empty list.
#pragma once

#include <expected>
#include <memory>
#include <string>
#include <vector>

struct ub_ctx;

namespace control::cli {

class TxtLookup {
public:
    /// \param servers  "127.0.0.1@5353"; empty: /etc/resolv.conf
    [[nodiscard]] static std::expected<TxtLookup, std::string>
    open(const std::vector<std::string>& servers);
    /// Each record's strings put together.
    [[nodiscard]] std::expected<std::vector<std::string>, std::string> ask(const std::string& name);

private:
    struct Close {
        void operator()(ub_ctx* context) const noexcept;
    };
    explicit TxtLookup(ub_ctx* context) : context_(context) {}
    std::unique_ptr<ub_ctx, Close> context_;
};

} // namespace control::cli
