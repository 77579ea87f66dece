#include "tests/queue/spool_crew.h"

#include "queue/seeded_defect.h"

#include <algorithm>
#include <random>
#include <utility>

namespace tests {

using namespace std::chrono_literals;
using queue::MessageRef;
using queue::RecipientState;
using queue::RecipientStatus;
using queue::SpoolError;
using queue::SpoolResult;

namespace {

base::Duration draw_time(std::mt19937_64& random, base::Duration most) {
    return base::Duration{
        static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(most.count() + 1))};
}

bool chance(std::mt19937_64& random, std::size_t percent) {
    return random() % 100 < percent;
}

base::Task<void> write_mail(World* world, Oracle* oracle, Mix mix, std::uint64_t seed) {
    std::mt19937_64 random{seed};
    for (;;) {
        Letter letter;
        const bool large = chance(random, mix.large_percent);
        const std::size_t bytes =
            large ? mix.large_bytes_min + random() % (mix.large_bytes_max - mix.large_bytes_min + 1)
                  : 1 + random() % mix.small_bytes_max;
        letter.body = random_body(random, bytes);
        letter.prelude = random() % 4 == 0 ? "" : "Received: from somewhere\r\n";
        letter.recipients = chance(random, mix.many_percent) ? 1 + random() % mix.recipients_many
                                                             : 1 + random() % mix.recipients_max;
        letter.tenant = "tenant" + std::to_string(random() % 3);
        if (chance(random, mix.cancel_percent)) letter.patience = draw_time(random, 4ms);
        letter.give_up = chance(random, mix.drop_percent);
        auto sent = co_await send(world, oracle, std::move(letter));
        if (!sent) static_cast<void>(co_await base::sleep_for(world->loop, 20ms));
        static_cast<void>(co_await base::sleep_for(world->loop, draw_time(random, mix.pause_max)));
    }
}

/// Some recipients of a round reach their end; at least one stays.
void finish_some(std::mt19937_64& random, queue::Message& message) {
    std::size_t pending = message.pending_count();
    for (RecipientStatus& status : message.status) {
        if (status.state != RecipientState::pending || pending <= 1 || random() % 2 == 0) continue;
        status.state = random() % 4 == 0 ? RecipientState::bounced : RecipientState::delivered;
        status.last_code = 250;
        --pending;
    }
}

void finish_all(queue::Message& message, RecipientState state) {
    for (RecipientStatus& status : message.status) {
        if (status.state == RecipientState::pending) status.state = state;
    }
}

/// The report to the sender is safe before the message it is about ends. False when there was no room.
base::Task<bool> bounce(World* world, Oracle* oracle, MessageRef message) {
    if (SEEDED_DEFECT(tomb_before_report)) {
        finish_all(*message, RecipientState::bounced);
        oracle->settled(message->id, queue::MessageId{1});
        world->queue->settle(message);
    }
    Letter letter;
    letter.body = "Your message could not be delivered.\r\n";
    letter.report = true;
    auto report = co_await send(world, oracle, std::move(letter));
    if (SEEDED_DEFECT(tomb_before_report)) {
        if (report) oracle->settled(message->id, (*report)->id);
        co_return true;
    }
    if (!report) co_return false;
    finish_all(*message, RecipientState::bounced);
    oracle->settled(message->id, (*report)->id);
    world->queue->settle(std::move(message));
    co_return true;
}

base::Task<void> deliver_mail(World* world, Oracle* oracle, Mix mix, std::uint64_t seed) {
    std::mt19937_64 random{seed};
    const std::array<queue::SiteRef, 2> sites{world->queue->site("a.example"),
                                              world->queue->site("b.example")};
    static_cast<void>(co_await base::sleep_for(world->loop, mix.stall));
    for (;;) {
        while (!world->ready.empty()) {
            MessageRef message = std::move(world->ready.front());
            world->ready.pop_front();
            world->queue->pull();
            auto content = co_await content_task(*world->queue, message);
            oracle->handed(*world, *message, content ? &*content : nullptr);
            const base::WallTime now = world->loop.wall_now();
            const bool expired = now >= message->envelope.expiry;
            const base::WallTime due = now + std::chrono::duration_cast<std::chrono::milliseconds>(
                                                 draw_time(random, mix.defer_max));
            if (!content) {
                if (content.error() == SpoolError::damaged || expired) {
                    finish_all(*message, RecipientState::expired);
                    oracle->settled(message->id);
                    world->queue->settle(std::move(message));
                    continue;
                }
                oracle->deferred(*message, due);
                world->queue->defer(std::move(message), due, "the content cannot be read");
                continue;
            }
            if (!expired && chance(random, mix.defer_percent)) {
                if (chance(random, mix.partial_percent)) finish_some(random, *message);
                if (random() % 3 == 0) {
                    oracle->progressed(*message);
                    world->queue->progress(*message);
                    static_cast<void>(
                        co_await base::sleep_for(world->loop, draw_time(random, 8ms)));
                }
                oracle->deferred(*message, due);
                world->queue->defer(std::move(message), due, "451 4.7.1 later");
                continue;
            }
            if (!expired && chance(random, mix.park_percent)) {
                world->queue->park(std::move(message), sites[random() % sites.size()], due);
                continue;
            }
            if (!expired && chance(random, mix.hold_percent)) {
                world->queue->hold(std::move(message));
                continue;
            }
            const bool tell = !message->envelope.sender().empty() &&
                              (expired || chance(random, mix.bounce_percent));
            if (tell) {
                const MessageRef again = message;
                const bool told = co_await bounce(world, oracle, std::move(message));
                if (told) continue;
                oracle->deferred(*again, due);
                world->queue->defer(again, due, "no room for the report");
                continue;
            }
            finish_all(*message, RecipientState::delivered);
            oracle->settled(message->id);
            world->queue->settle(std::move(message));
        }
        static_cast<void>(co_await world->ready_wait.wait(world->loop, base::Deadline::never()));
    }
}

base::Task<void> sync_now_and_then(World* world, Oracle* oracle, base::Duration every) {
    for (;;) {
        static_cast<void>(co_await base::sleep_for(world->loop, every));
        auto promises = oracle->sync_begins();
        auto synced = co_await world->queue->sync(base::Deadline::never());
        oracle->sync_ended(std::move(promises), synced.has_value());
        oracle->check_bounds(*world);
    }
}

base::Task<void> operate(World* world, Oracle* oracle, std::uint64_t seed) {
    std::mt19937_64 random{seed};
    queue::QueueFilter tenant;
    tenant.tenant = "tenant1";
    for (;;) {
        static_cast<void>(co_await base::sleep_for(world->loop, draw_time(random, 300ms)));
        switch (random() % 6) {
        case 0:
            static_cast<void>(world->queue->flush(tenant));
            break;
        case 1: {
            queue::EntryRef chosen = queue::no_entry;
            queue::MessageId id;
            world->queue->for_each({}, [&](queue::EntryRef ref, const queue::Entry& entry) {
                if (random() % 8 != 0) return true;
                chosen = ref;
                id = entry.id;
                return false;
            });
            if (chosen != queue::no_entry && world->queue->remove(chosen)) oracle->removed(id);
            break;
        }
        case 2:
            static_cast<void>(world->queue->release_held(3));
            break;
        case 3: {
            const queue::SiteRef site = world->queue->site("a.example");
            static_cast<void>(world->queue->release(site, 5));
            world->queue->leave(site);
            break;
        }
        default:
            world->queue->for_each({}, [&](queue::EntryRef ref, const queue::Entry&) {
                return random() % 4 != 0 || !world->queue->expedite(ref, true);
            });
            break;
        }
    }
}

} // namespace

base::Task<SpoolResult<MessageRef>> send(World* world, Oracle* oracle, Letter letter) {
    const auto use = letter.report ? queue::DraftUse::report : queue::DraftUse::mail;
    auto draft = world->queue->begin(letter.body.size(), use);
    if (!draft) co_return std::unexpected(draft.error());
    const queue::MessageId id = draft->id();
    queue::Envelope& envelope = draft->envelope();
    envelope.set_sender(letter.report ? "" : "sender@example.org");
    envelope.set_tenant(letter.tenant);
    envelope.set_account("account");
    envelope.set_source("pool");
    envelope.set_campaign("autumn");
    envelope.expiry = world->loop.wall_now() + std::chrono::hours{1 + id.value % 100};
    for (std::size_t i = 0; i < letter.recipients; ++i) {
        envelope.add_recipient("user" + std::to_string(i) + "@domain" + std::to_string(i % 7) +
                                   ".example",
                               i % 3 == 0 ? "rfc822;user@example" : "", queue::notify_failure);
    }
    oracle->begun(*world, id, envelope, letter.prelude + letter.body);
    const base::Deadline deadline = letter.patience == base::Duration::max()
                                        ? base::Deadline::never()
                                        : base::Deadline::in(world->loop, letter.patience);
    auto appended = co_await draft->append(base::as_bytes(letter.body), deadline);
    if (!appended || letter.give_up) {
        oracle->refused(id);
        co_return std::unexpected(appended ? SpoolError::cancelled : appended.error());
    }
    auto committed = co_await draft->commit(letter.prelude, deadline);
    if (committed) {
        oracle->acknowledged(*world, **committed);
    } else {
        oracle->refused(id);
    }
    co_return committed;
}

void start_deliveries(World& world, Oracle& oracle, const Mix& mix) {
    world.sink();
    for (std::size_t i = 0; i < mix.deliverers; ++i)
        world.start(deliver_mail(&world, &oracle, mix, mix.seed * 31 + i));
    world.start(sync_now_and_then(&world, &oracle, mix.sync_every));
    if (mix.operate) world.start(operate(&world, &oracle, mix.seed ^ 0xABCD));
}

void start_clients(World& world, Oracle& oracle, const Mix& mix) {
    for (std::size_t i = 0; i < mix.writers; ++i)
        world.start(write_mail(&world, &oracle, mix, mix.seed * 1000 + i));
}

} // namespace tests
