// contract.h: one suite that every backend must pass, and the list of backends that a file brings to it.
//
// Scope      The suite is contract.cc; each *_contract_test.cc instantiates it for its backends.
#pragma once

#include "tests/tls_offload/engine/rig.h"

#include <gtest/gtest.h>

namespace tests {

struct Subject {
    std::string name;
    /// Makes the backend, or says why this machine cannot.
    std::function<std::expected<std::unique_ptr<offload::Backend>, std::string>()> make;
    std::vector<unsigned> sizes{2048, 3072, 4096}; // key sizes it does itself
};
inline void PrintTo(const Subject& subject, std::ostream* out) {
    *out << subject.name;
}

class BackendContract : public testing::TestWithParam<Subject> {
protected:
    void SetUp() override {
        auto made = GetParam().make();
        if (!made) GTEST_SKIP() << made.error();
        offload::Backend* subject = made->get();
        Rig::Backends backends;
        backends.push_back(std::move(*made));
        if (!subject->traits().software) backends.push_back(offload::make_inline_backend());
        backend = subject;
        rig.emplace(std::move(backends));
    }

    std::optional<Rig> rig;
    offload::Backend* backend = nullptr;
};

} // namespace tests
