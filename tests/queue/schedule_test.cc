// schedule_test.cc: timers, parking places and turns, against a plain model and in numbers.
#include "queue/schedule.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

namespace {

using namespace queue;
using State = Schedule::State;
using Share = Schedule::Share;

constexpr Tick start = 1000;

struct ScheduleTest : testing::Test {
    void admit(EntryRef first, EntryRef count, TextId tenant, Share share = Share::retry,
               std::uint64_t bytes = 0) {
        for (EntryRef e = first; e < first + count; ++e)
            schedule.admit(e, tenant, bytes, share);
    }
    void advance(Tick now) {
        do {
            schedule.advance(now, 1U << 20);
        } while (schedule.behind());
    }
    std::vector<EntryRef> take_all(Share share = Share::retry) {
        std::vector<EntryRef> taken;
        for (EntryRef e = schedule.take_ready(share); e != no_entry; e = schedule.take_ready(share))
            taken.push_back(e);
        return taken;
    }
    Schedule schedule{start};
};

TEST_F(ScheduleTest, EntryIsReadyAtItsSecondAndNotBefore) {
    admit(0, 4, 1);
    const std::vector<Tick> due{start + 1, start + 255, start + 70'000, start + 20'000'000};
    for (EntryRef e = 0; e < 4; ++e)
        schedule.schedule(e, due[e]);
    for (EntryRef e = 0; e < 4; ++e) {
        advance(due[e] - 1);
        EXPECT_TRUE(take_all().empty()) << e;
        EXPECT_LE(schedule.next_due(), due[e]);
        advance(due[e]);
        EXPECT_EQ(take_all(), std::vector<EntryRef>{e});
    }
    EXPECT_EQ(schedule.next_due(), no_tick);
}

TEST_F(ScheduleTest, AgreesWithAModelUnderRandomCalls) {
    std::mt19937_64 random{7};
    struct Known {
        State state = State::none;
        Tick when = 0;
        SiteRef site = no_site;
    };
    constexpr EntryRef count = 400;
    std::vector<Known> model(count);
    for (EntryRef e = 0; e < count; ++e)
        schedule.admit(e, static_cast<TextId>(random() % 40), random() % 100'000,
                       random() % 2 == 0 ? Share::fresh : Share::retry);
    std::vector<SiteRef> sites;
    for (int i = 0; i < 5; ++i)
        sites.push_back(schedule.site("site" + std::to_string(i)));
    Tick now = start;
    for (int step = 0; step < 60'000; ++step) {
        const auto e = static_cast<EntryRef>(random() % count);
        Known& known = model[e];
        switch (random() % 8) {
        case 0:
            known = {State::timed, now + 1 + static_cast<Tick>(random() % 5000), no_site};
            schedule.schedule(e, known.when);
            break;
        case 1:
        case 2:
            known = {State::parked, now + 1 + static_cast<Tick>(random() % 5000),
                     sites[random() % sites.size()]};
            schedule.park(e, known.site, known.when, random() % 2 == 0);
            break;
        case 3:
            known = {State::ready, 0, no_site};
            schedule.ready(e);
            break;
        case 4:
            known = {};
            schedule.cancel(e);
            break;
        case 5:
            if (random() % 20 == 0) schedule.pause(sites[random() % sites.size()], now + 300);
            break;
        case 6: {
            const SiteRef site = sites[random() % sites.size()];
            if (random() % 20 == 0) schedule.release(site, 3);
            break;
        }
        case 7:
            now += static_cast<Tick>(random() % 4);
            schedule.advance(now, 50);
            break;
        }
        if (step % 16 != 0) continue;
        const EntryRef taken = schedule.take_ready(random() % 2 == 0 ? Share::fresh : Share::retry);
        if (taken != no_entry) {
            // Timed ones come when they are due; parked ones were released, or let go by their group.
            if (model[taken].state == State::timed) {
                EXPECT_LE(model[taken].when, now);
            }
            EXPECT_NE(model[taken].state, State::none) << taken;
            model[taken] = {};
        }
        std::uint64_t parked = 0;
        for (EntryRef each = 0; each < count; ++each) {
            const State state = schedule.state(each);
            parked += state == State::parked;
            if (state == State::ready) continue; // checked when it is taken
            ASSERT_EQ(state, model[each].state) << each << " at step " << step;
            if (state == State::parked) {
                ASSERT_EQ(schedule.site_of(each), model[each].site);
                // A sweep finds it within a minute of its time, and a slice or two.
                ASSERT_GE(model[each].when + 180, now) << each;
            }
        }
        ASSERT_EQ(schedule.counts().parked, parked);
    }
}

TEST_F(ScheduleTest, AMillionParkedEntriesHoldOneTimerAndOneGoesAhead) {
    constexpr EntryRef count = 1'000'000;
    admit(0, count, 1);
    const SiteRef site = schedule.site("dead");
    schedule.pause(site, start + 600);
    for (EntryRef e = 0; e < count; ++e)
        schedule.park(e, site, start + 400'000);
    EXPECT_EQ(schedule.counts().timed, 0U);
    EXPECT_EQ(schedule.counts().parked, count);
    EXPECT_LE(schedule.memory_bytes(), std::size_t{count} * 21 + (1U << 20));
    advance(start + 599);
    EXPECT_TRUE(take_all().empty());
    advance(start + 600);
    EXPECT_EQ(take_all(), std::vector<EntryRef>{0});
    EXPECT_EQ(schedule.release(site, 3), 3U);
    EXPECT_EQ(take_all(), (std::vector<EntryRef>{1, 2, 3}));
    advance(start + 655);
    EXPECT_TRUE(take_all().empty()); // whoever pulls sets the pace
}

TEST_F(ScheduleTest, MailThatNobodyPullsComesByItselfSlowlyAtFirst) {
    admit(0, 1000, 1);
    const SiteRef site = schedule.site("moved away");
    schedule.pause(site, start + 10);
    for (EntryRef e = 0; e < 1000; ++e)
        schedule.park(e, site, start + 400'000);
    schedule.leave(site);
    std::vector<std::size_t> by_minute;
    for (Tick minute = 0; minute < 11; ++minute) {
        advance(start + 10 + minute * 60);
        by_minute.push_back(take_all().size());
    }
    EXPECT_EQ(by_minute, (std::vector<std::size_t>{1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 233}));
    EXPECT_EQ(schedule.counts().sites, 0U); // and the place is forgotten with its last one
}

TEST_F(ScheduleTest, ParkedEntryIsHandedOutAtItsLatestThoughItsSiteIsPaused) {
    admit(0, 3000, 1);
    const SiteRef site = schedule.site("dead");
    schedule.pause(site, start + 100'000);
    for (EntryRef e = 0; e < 3000; ++e)
        schedule.park(e, site, start + (e % 3 == 0 ? 500 : 5000));
    advance(start + 499);
    EXPECT_TRUE(take_all().empty());
    for (Tick now = start + 500; now <= start + 561; ++now)
        schedule.advance(now, 100); // in slices
    while (schedule.behind())
        schedule.advance(start + 561, 100);
    EXPECT_EQ(take_all().size(), 1000U);
    advance(start + 5061);
    EXPECT_EQ(take_all().size(), 2000U);
}

TEST_F(ScheduleTest, TenantsTakeTurnsByBytes) {
    admit(0, 10'000, 1, Share::retry, 4096 * 3);      // cost 4
    admit(20'000, 10'000, 2, Share::retry, 4096 * 7); // cost 8
    admit(40'000, 10, 3, Share::retry, 0);            // a small tenant
    for (EntryRef e = 0; e < 10'000; ++e)
        schedule.ready(e);
    for (EntryRef e = 20'000; e < 30'000; ++e)
        schedule.ready(e);
    for (EntryRef e = 40'000; e < 40'010; ++e)
        schedule.ready(e);
    std::map<EntryRef, int> taken;
    for (int i = 0; i < 600; ++i)
        ++taken[schedule.take_ready(Share::retry) / 20'000];
    EXPECT_EQ(taken[2], 10); // all of it within the first turns
    EXPECT_NEAR(taken[0], 2 * taken[1], 8);
}

TEST_F(ScheduleTest, ManyTenantsOfOneSiteAreFoundAgain) {
    const SiteRef site = schedule.site("x");
    for (EntryRef e = 0; e < 5000; ++e) {
        schedule.admit(e, e % 500, 0, Share::retry);
        schedule.park(e, site, start + 1000);
    }
    for (EntryRef e = 0; e < 5000; e += 3)
        schedule.cancel(e);
    for (EntryRef e = 0; e < 5000; e += 3)
        schedule.park(e, site, start + 1000);
    EXPECT_EQ(schedule.release(site, 500), 500U);
    std::map<EntryRef, int> by_tenant;
    for (const EntryRef e : take_all())
        ++by_tenant[e % 500];
    EXPECT_EQ(by_tenant.size(), 63U); // small mail: eight in a turn of 32 KiB
    for (const auto& [tenant, count] : by_tenant)
        EXPECT_LE(count, 8) << tenant;
}

TEST_F(ScheduleTest, FreshMailHasThreeOfFourTurnsAtASite) {
    admit(0, 10'000, 1, Share::retry);
    admit(10'000, 100, 1, Share::fresh);
    const SiteRef site = schedule.site("x");
    for (EntryRef e = 0; e < 10'100; ++e)
        schedule.park(e, site, start + 1000);
    schedule.release(site, 100);
    EXPECT_EQ(take_all(Share::fresh).size(), 75U);
    EXPECT_EQ(take_all(Share::retry).size(), 25U);
    schedule.release(site, 100);
    EXPECT_EQ(take_all(Share::fresh).size(), 25U);
    EXPECT_EQ(take_all(Share::retry).size(), 75U); // the rest of the turns is theirs
}

TEST_F(ScheduleTest, HeldEntriesWaitForTheirRelease) {
    admit(0, 100, 1);
    for (EntryRef e = 0; e < 100; ++e)
        schedule.hold(e);
    advance(start + 1'000'000);
    EXPECT_TRUE(take_all().empty());
    EXPECT_EQ(schedule.release_held(60), 60U);
    EXPECT_EQ(schedule.release_held(60), 40U);
    EXPECT_EQ(take_all().size(), 100U);
}

TEST_F(ScheduleTest, WhatIsDueAtOnceIsWorkedOffInSlices) {
    constexpr EntryRef count = 100'000;
    admit(0, count, 1);
    for (EntryRef e = 0; e < count; ++e)
        schedule.schedule(e, start + 400);
    schedule.advance(start + 400, 1000);
    EXPECT_TRUE(schedule.behind());
    EXPECT_LE(schedule.counts().ready_retry, 1000U);
    EXPECT_EQ(schedule.next_due(), schedule.now());
    int turns = 1;
    for (; schedule.behind(); ++turns)
        schedule.advance(start + 400, 1000);
    EXPECT_LE(turns, 201); // each is looked at twice: it comes down a level first
    EXPECT_EQ(take_all().size(), count);
}

} // namespace
