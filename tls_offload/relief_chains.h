// relief_chains.h: certificates for the self-test of relief.h, and for its unit test. Internal to
// tls_offload.
#pragma once

#include <array>

namespace tls_offload {

struct ReliefChain {
    const char* kind;
    const char* leaf; // PEM; for the name relief.invalid
    const char* root; // PEM
};
extern const std::array<ReliefChain, 7> relief_chains;

} // namespace tls_offload
