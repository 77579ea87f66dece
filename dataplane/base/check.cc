#include "dataplane/base/check.h"

#include <cstdio>
#include <cstdlib>

namespace dataplane::base {

void check_failed(const char* fact, const char* file, int line) noexcept {
    std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", file, line, fact);
    std::abort();
}

} // namespace dataplane::base
