// engine_bench.h: DKIM's RSA signatures through the offload engine, backend by backend: their rate, what the shard
// itself pays for each, and how long its turns become.
//
// Scope      A loop with its ring, as a shard has it, and so many coroutines that each wait for a signature. "Stock"
//            is EVP_DigestSign on one thread, measured in the same run.
// Owns       Nothing beyond a call.
// Threading  One thread; the crypto workers are a backend's own.
// Failure    std::runtime_error: this OpenSSL cannot do what is measured. A backend that is not here is left out,
//            with the reason.
#pragma once

#include "tls_offload/bench/row.h"

#include <string>
#include <vector>

namespace tls_offload::bench {

struct SignatureRows {
    std::vector<Row> rows;
    std::vector<std::string> left_out; // sentences
};
/// \param seconds  for each row
[[nodiscard]] SignatureRows signatures(double seconds);

} // namespace tls_offload::bench
