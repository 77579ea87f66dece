// check.h: assertions about our own invariants.
//
// Scope      CHECK is on in every build, DCHECK only where NDEBUG is absent. Neither is ever put on
//            something that came from a peer, a disk or a file: those are errors, not bugs.
// Failure    Prints the fact that did not hold with its place, then aborts. The spool makes that safe.
#pragma once

namespace dataplane::base {

[[noreturn]] void check_failed(const char* fact, const char* file, int line) noexcept;

} // namespace dataplane::base

#define CHECK(fact)                                                                                \
    (__builtin_expect(static_cast<bool>(fact), 1)                                                  \
         ? static_cast<void>(0)                                                                    \
         : ::dataplane::base::check_failed(#fact, __FILE__, __LINE__))

#ifdef NDEBUG
#define DCHECK(fact) static_cast<void>(0)
#else
#define DCHECK(fact) CHECK(fact)
#endif
