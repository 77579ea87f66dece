#include "tls_offload/session_cache.h"

#include <gtest/gtest.h>

namespace tls_offload {
namespace {

SessionHandle session_of(int version) {
    SessionHandle session{SSL_SESSION_new()};
    SSL_SESSION_set_protocol_version(session.get(), version);
    return session;
}

TEST(SessionCache, Tls13TicketIsGivenOutOnce) {
    SessionCache cache{4};
    cache.put("a", session_of(TLS1_3_VERSION));
    EXPECT_NE(cache.take("a"), nullptr);
    EXPECT_EQ(cache.take("a"), nullptr);
    EXPECT_EQ(cache.key_count(), 0U);
}

TEST(SessionCache, Tls12SessionIsShared) {
    SessionCache cache{4};
    cache.put("a", session_of(TLS1_2_VERSION));
    const auto first = cache.take("a");
    const auto second = cache.take("a");
    EXPECT_EQ(first.get(), second.get());
    EXPECT_NE(first, nullptr);
}

TEST(SessionCache, NewestTicketIsTakenFirstAndOldestDroppedWhenFull) {
    SessionCache cache{4};
    std::vector<SSL_SESSION*> put;
    for (std::size_t i = 0; i < sessions_per_key_max + 2; ++i) {
        auto session = session_of(TLS1_3_VERSION);
        put.push_back(session.get());
        cache.put("a", std::move(session));
    }
    for (std::size_t i = 0; i < sessions_per_key_max; ++i) {
        EXPECT_EQ(cache.take("a").get(), put[put.size() - 1 - i]);
    }
    EXPECT_EQ(cache.take("a"), nullptr);
}

TEST(SessionCache, KeyUsedLongestAgoGoesFirst) {
    SessionCache cache{2};
    cache.put("a", session_of(TLS1_2_VERSION));
    cache.put("b", session_of(TLS1_2_VERSION));
    EXPECT_NE(cache.take("a"), nullptr);
    cache.put("c", session_of(TLS1_2_VERSION));
    EXPECT_EQ(cache.key_count(), 2U);
    EXPECT_EQ(cache.take("b"), nullptr);
    EXPECT_NE(cache.take("a"), nullptr);
    EXPECT_NE(cache.take("c"), nullptr);
}

TEST(SessionCache, ForgottenKeyIsGone) {
    SessionCache cache{2};
    cache.put("a", session_of(TLS1_2_VERSION));
    cache.forget("a");
    cache.forget("never there");
    EXPECT_EQ(cache.take("a"), nullptr);
}

TEST(SessionCache, ZeroKeysRemembersNothing) {
    SessionCache cache{0};
    cache.put("a", session_of(TLS1_2_VERSION));
    EXPECT_EQ(cache.take("a"), nullptr);
}

} // namespace
} // namespace tls_offload
