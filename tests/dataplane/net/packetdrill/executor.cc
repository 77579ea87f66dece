#include "tests/dataplane/net/packetdrill/executor.h"

#include "dataplane/base/loop.h"
#include "dataplane/net/stack/stack.h"
#include "tests/dataplane/net/packetdrill/flow.h"
#include "tests/dataplane/net/packetdrill/parser.h"
#include "tests/dataplane/net/packetdrill/profile.h"
#include "tests/dataplane/net/packetdrill/raw_port.h"
#include "tests/dataplane/net/packetdrill/sockets.h"

#include <algorithm>
#include <cerrno>
#include <deque>
#include <fcntl.h>
#include <fstream>
#include <optional>
#include <poll.h>
#include <sstream>
#include <sys/socket.h>

namespace tests::packetdrill {

namespace {

/// Ends a run from any depth; caught in Run::play() and nowhere else.
struct Stop {
    RunResult::Outcome outcome;
    std::string message;
};

constexpr base::Duration any_time_limit = std::chrono::hours{2};
constexpr base::Duration step_min = std::chrono::microseconds{100};

class Run {
public:
    Run(const Script& script, RunOptions options)
        : script_(script), options_(options), profile_(profile_of(script)),
          port_(profile_.mtu, [this](std::span<const std::byte> packet) { capture(packet); }),
          stack_(loop_, port_, layer_options(profile_.mtu), profile_.stack),
          sockets_(loop_, stack_, profile_.nagle), start_(clock_.now()), last_event_(start_) {
        for (const net::ip::Route& route : layer_options(profile_.mtu).routes)
            stack_.learn(route.gateway, RawPort::peer_mac);
    }

    RunResult play() {
        RunResult result;
        try {
            for (const Event& event : script_.events) {
                event_ = &event;
                play(event);
            }
            finish();
        } catch (Stop& stop) {
            result.outcome = stop.outcome;
            result.message = std::move(stop.message);
        }
        result.notes = std::move(profile_.notes);
        return result;
    }

private:
    struct Captured {
        base::TimePoint at;
        WireSegment segment;
    };
    /// A system call that has not returned yet.
    struct Outstanding {
        const Event* event;
        const Syscall* call;
        CallState state;
        Bytes bytes; // what it reads into or writes
        base::TimePoint begun;
        std::optional<CallResult> result;
        base::TimePoint ended;
    };

    // --- ending
    [[noreturn]] void fail(const std::string& message) const { fail_at(event_->line, message); }
    [[noreturn]] void fail_at(unsigned line, const std::string& message) const {
        throw Stop{RunResult::Outcome::failed, place(line) + message};
    }
    [[noreturn]] void skip(const std::string& message) const {
        throw Stop{RunResult::Outcome::skipped, place(event_->line) + message};
    }
    [[nodiscard]] std::string place(unsigned line) const {
        return script_.file + ":" + std::to_string(line) + ": ";
    }
    [[nodiscard]] std::string since_start(base::TimePoint at) const {
        return describe(at - start_);
    }

    // --- time
    /// Lets everything happen that happens now.
    void settle() {
        constexpr int turns_max = 10'000;
        static_cast<void>(loop_.turn()); // first, so that the stack sees the time of now
        for (int turns = 0; turns < turns_max; ++turns) {
            const std::size_t frames = stack_.poll();
            sockets_.poke();
            const bool more = loop_.turn();
            attempt_outstanding();
            if (frames == 0 && !more && !port_.has_incoming() && loop_.idle()) return;
        }
        fail("the stack does not come to rest");
    }
    void advance_until(base::TimePoint target, const auto& done) {
        settle();
        while (!done() && clock_.now() < target) {
            const base::TimePoint due =
                std::max(std::min({loop_.next_due(), stack_.next_due(), sockets_.next_due()}),
                         clock_.now() + step_min);
            clock_.advance_to(std::min(due, target));
            settle();
        }
    }
    void advance_to(base::TimePoint target) {
        advance_until(target, [] { return false; });
    }

    [[nodiscard]] base::TimePoint begin_of(const EventTime& time) const {
        switch (time.kind) {
        case EventTime::Kind::any:
            return clock_.now();
        case EventTime::Kind::absolute:
            return start_ + time.begin;
        case EventTime::Kind::relative:
            return last_event_ + time.begin;
        }
        return clock_.now();
    }
    [[nodiscard]] base::TimePoint end_of(const EventTime& time) const {
        if (time.kind == EventTime::Kind::any) return clock_.now() + any_time_limit;
        const base::TimePoint origin =
            time.kind == EventTime::Kind::absolute ? start_ : last_event_;
        return origin + time.end.value_or(time.begin);
    }
    [[nodiscard]] base::Duration tolerance(base::TimePoint expected) const {
        const base::Duration since = std::max(expected - last_event_, base::Duration{});
        return profile_.tolerance +
               base::Duration{static_cast<std::int64_t>(static_cast<double>(since.count()) *
                                                        profile_.tolerance_percent / 100)};
    }

    // --- events
    void play(const Event& event) {
        if (std::holds_alternative<Command>(event.what)) return; // in the profile already
        if (std::holds_alternative<Code>(event.what)) {
            profile_.notes.push_back(place(event.line) + "%{ }% is not played");
            return;
        }
        if (const auto* const packet = std::get_if<Packet>(&event.what)) {
            if (packet->inbound) {
                reach(event.time);
                inject(*packet);
                last_event_ = clock_.now();
                settle();
            } else if (const auto* const segment = std::get_if<TcpPacket>(&packet->what)) {
                expect(event.time, *segment);
            } else {
                skip("the stack is not expected to send ICMP");
            }
            return;
        }
        finish_outstanding();
        reach(event.time);
        last_event_ = clock_.now();
        start_call(event, std::get<Syscall>(event.what));
    }

    /// Waits until the time of an event that we make happen.
    void reach(const EventTime& time) {
        const base::TimePoint begin = begin_of(time);
        if (begin + profile_.tolerance < clock_.now())
            fail("time goes backwards: it is " + since_start(clock_.now()) + " already");
        advance_to(begin);
    }

    void finish() {
        finish_outstanding();
        settle();
        drop_strangers();
        if (options_.strict_end && !captured_.empty()) {
            const Captured& first = captured_.front();
            fail("error handling packet: one more than the script expects\nactual packet:  " +
                 since_start(first.at) + " " + describe(flow_->to_script(first.segment, true)));
        }
        if (port_.unreleased_count() != 0)
            fail("the stack has kept " + std::to_string(port_.unreleased_count()) +
                 " received frames");
    }

    // --- packets
    void capture(std::span<const std::byte> packet) {
        if (auto segment = decode(packet)) {
            captured_.push_back({clock_.now(), std::move(*segment)});
            return;
        }
        const unsigned version = packet.empty() ? 0 : std::to_integer<unsigned>(packet[0]) >> 4;
        const bool is_tcp = (version == 4 && packet.size() >= 20 && packet[9] == std::byte{6}) ||
                            (version == 6 && packet.size() >= 40 && packet[6] == std::byte{6});
        if (is_tcp || (version != 4 && version != 6)) broken_packet_ = true;
    }

    void inject(const Packet& packet) {
        if (const auto* const segment = std::get_if<TcpPacket>(&packet.what)) {
            const bool syn_alone =
                (segment->flags & (tcp::flag::syn | tcp::flag::ack)) == tcp::flag::syn;
            if (!flow_ || (syn_alone && listening_afresh_)) {
                listening_afresh_ = false;
                base::SocketAddress remote{remote_ip(profile_.ipv6), next_remote_port_++};
                flow_.emplace(base::SocketAddress{local_ip(profile_.ipv6), service_port}, remote,
                              profile_.timestamp_tick);
            }
            std::string problem;
            const auto wire = flow_->to_wire(*segment, problem);
            if (!wire) fail(problem);
            port_.inject(encode(*wire));
            return;
        }
        const auto& icmp = std::get<IcmpPacket>(packet.what);
        if (!flow_) fail("an ICMP error before there is a connection");
        port_.inject(encode(flow_->to_wire(icmp)));
    }

    /// Packets of connections that the script has left behind are nobody's.
    void drop_strangers() {
        while (!captured_.empty()) {
            const WireSegment& segment = captured_.front().segment;
            const bool opens =
                (segment.flags & (tcp::flag::syn | tcp::flag::ack)) == tcp::flag::syn;
            if (connecting_ && opens && segment.destination.port == service_port) {
                connecting_ = false;
                flow_.emplace(segment.source, segment.destination, profile_.timestamp_tick);
            }
            if (flow_ && flow_->owns(segment)) return;
            captured_.pop_front();
        }
    }

    void expect(const EventTime& time, const TcpPacket& expected) {
        const base::TimePoint begin = begin_of(time);
        const base::TimePoint end = end_of(time);
        const base::Duration slack = tolerance(end);
        const auto has_packet = [&] {
            drop_strangers();
            return !captured_.empty();
        };
        advance_until(end + slack, has_packet);
        if (broken_packet_) fail("the stack has sent a packet whose header or checksum is wrong");
        if (captured_.empty())
            fail("error handling packet: none came until " + since_start(clock_.now()) +
                 "\nscript packet:  " + since_start(begin) + " " + describe(expected));
        Captured live = std::move(captured_.front());
        captured_.pop_front();
        merge(live, expected, time.kind != EventTime::Kind::any && time.end ? end : live.at);
        const std::string difference = flow_->compare(expected, live.segment);
        if (!difference.empty())
            fail("error handling packet: " + difference +
                 "\nscript packet:  " + since_start(begin) + " " + describe(expected) +
                 "\nactual packet:  " + since_start(live.at) + " " +
                 describe(flow_->to_script(live.segment, expected.ecn.has_value())));
        if (time.kind != EventTime::Kind::any && (live.at + slack < begin || live.at > end + slack))
            fail("timing error: expected outbound packet at " + since_start(begin) +
                 (time.end ? "~" + since_start(end) : "") + " sec but it happened at " +
                 since_start(live.at) + " sec; tolerance " + describe(slack) +
                 " sec\nscript packet:  " + describe(expected));
        last_event_ = live.at;
    }

    /// A script may show several segments as one, as a NIC that cuts them would have got it. With a range of
    /// time, the range is all of theirs: pacing spreads them.
    void merge(Captured& live, const TcpPacket& expected, base::TimePoint until) {
        until = std::max(until, live.at + profile_.tolerance);
        while (live.segment.payload.size() < expected.payload_bytes &&
               !live.segment.payload.empty()) {
            advance_until(until, [this] {
                drop_strangers();
                return !captured_.empty();
            });
            if (captured_.empty() || captured_.front().at > until) return;
            const WireSegment& next = captured_.front().segment;
            const auto bytes = static_cast<std::uint32_t>(live.segment.payload.size());
            if (next.seq != live.segment.seq + bytes || next.ack != live.segment.ack) return;
            if (bytes + next.payload.size() > expected.payload_bytes) return;
            live.segment.payload.insert(live.segment.payload.end(), next.payload.begin(),
                                        next.payload.end());
            live.segment.flags |= next.flags;
            live.at = captured_.front().at;
            captured_.pop_front();
        }
    }

    // --- system calls
    void start_call(const Event& event, const Syscall& call) {
        outstanding_.emplace(Outstanding{&event, &call, {}, {}, clock_.now(), {}, {}});
        prepare(*outstanding_);
        attempt_outstanding();
        settle();
        if (!event.time.blocking) finish_outstanding();
    }

    void attempt_outstanding() {
        if (!outstanding_ || outstanding_->result) return;
        outstanding_->result = attempt(*outstanding_);
        if (outstanding_->result) outstanding_->ended = clock_.now();
    }

    void finish_outstanding() {
        if (!outstanding_) return;
        const Event& event = *outstanding_->event;
        const base::TimePoint begun = outstanding_->begun;
        const base::Duration takes =
            event.time.blocking ? *event.time.end - event.time.begin : base::Duration{};
        const base::TimePoint end = begun + takes;
        const base::Duration slack =
            profile_.tolerance +
            base::Duration{static_cast<std::int64_t>(static_cast<double>(takes.count()) *
                                                     profile_.tolerance_percent / 100)};
        advance_until(end + slack, [&] { return outstanding_->result.has_value(); });
        const Outstanding call = std::move(*outstanding_);
        outstanding_.reset();
        if (!call.result)
            fail_at(event.line, "timing error: " + call.call->name + " has not returned by " +
                                    since_start(clock_.now()));
        if (event.time.blocking && (call.ended + slack < end || call.ended > end + slack))
            fail_at(event.line, "timing error: expected " + call.call->name + " to return at " +
                                    since_start(end) + " sec but it returned at " +
                                    since_start(call.ended) + " sec");
        check_result(call);
    }

    void check_result(const Outstanding& call) {
        const CallResult& result = *call.result;
        const auto shown = [](std::int64_t value, const std::string& error) {
            return std::to_string(value) + (error.empty() ? "" : " " + error);
        };
        const std::string live =
            shown(result.value, result.error == 0 ? "" : errno_name(result.error));
        const Value& wanted = call.call->result;
        if (wanted.kind != Value::Kind::ellipsis) {
            const std::int64_t value = number(wanted);
            const bool same_error =
                call.call->error.empty() ||
                (result.value == -1 && errno_name(result.error) == call.call->error);
            if (value != result.value || !same_error ||
                (call.call->error.empty() && result.error != 0))
                fail_at(call.event->line, "runtime error in " + call.call->name +
                                              " call: expected " + shown(value, call.call->error) +
                                              " but got " + live);
        }
        if (result.value > 0 && is_read(call.call->name)) check_data(call);
        check_outputs(call);
    }

    static bool is_read(const std::string& name) {
        return name == "read" || name == "readv" || name == "recv" || name == "recvfrom" ||
               name == "recvmsg";
    }

    /// Every byte of a stream is known by its place in it, so lost, doubled or mixed up ones show.
    void check_data(const Outstanding& call) {
        const int fd = descriptor(*call.call);
        const bool peek = call.call->arguments.size() > 3 && call.call->name != "readv" &&
                          (number(call.call->arguments[3]) & MSG_PEEK) != 0;
        std::uint32_t& place = read_bytes_[fd];
        for (std::int64_t i = 0; i < call.result->value; ++i) {
            if (call.bytes[static_cast<std::size_t>(i)] ==
                stream_byte(place + static_cast<std::uint32_t>(i)))
                continue;
            fail_at(call.event->line, "runtime error in " + call.call->name + " call: byte " +
                                          std::to_string(place + static_cast<std::uint32_t>(i)) +
                                          " of the stream is not what was sent");
        }
        if (!peek) place += static_cast<std::uint32_t>(call.result->value);
    }

    void check_outputs(const Outstanding& call) {
        const Syscall& syscall = *call.call;
        if (call.result->value < 0) return;
        if (syscall.name == "getsockopt" || syscall.name == "ioctl") {
            const std::size_t index = syscall.name == "ioctl" ? 2 : 3;
            if (syscall.arguments.size() <= index) return;
            const Value& wanted = syscall.arguments[index];
            if (wanted.kind != Value::Kind::list || wanted.items.empty()) return;
            if (wanted.items[0].kind == Value::Kind::ellipsis) return;
            const std::int64_t value = number(wanted.items[0]);
            if (value != outputs_[0])
                fail_at(call.event->line, "runtime error in " + syscall.name + " call: expected [" +
                                              std::to_string(value) + "] but got [" +
                                              std::to_string(outputs_[0]) + "]");
        } else if (syscall.name == "poll") {
            check_poll(call);
        }
    }

    void check_poll(const Outstanding& call) {
        for (const Value& item : call.call->arguments.at(0).items) {
            const Value* const revents = field(item, "revents");
            if (revents == nullptr || revents->kind == Value::Kind::ellipsis) continue;
            const auto wanted = static_cast<short>(number(*revents));
            const short live = poll_item(item);
            if (wanted != live)
                fail_at(call.event->line, "runtime error in poll call: expected revents " +
                                              std::to_string(wanted) + " but got " +
                                              std::to_string(live));
        }
    }

    // --- arguments
    [[nodiscard]] std::int64_t number(const Value& value) const {
        if (value.kind == Value::Kind::integer) return value.number;
        if (value.kind == Value::Kind::symbol) {
            const auto known = number_of_symbol(value.text);
            if (!known) skip("the symbol " + value.text + " is not known");
            return *known;
        }
        if (value.kind == Value::Kind::ellipsis) return 0;
        skip("an argument is not a number");
    }
    [[nodiscard]] const Value& argument(const Syscall& call, std::size_t index) const {
        if (index >= call.arguments.size()) fail(call.name + " has too few arguments");
        return call.arguments[index];
    }
    [[nodiscard]] int descriptor(const Syscall& call) const {
        return static_cast<int>(number(argument(call, 0)));
    }
    [[nodiscard]] static const Value* field(const Value& structure, std::string_view name) {
        for (std::size_t i = 0; i < structure.names.size(); ++i) {
            if (structure.names[i] == name) return &structure.items[i];
        }
        return nullptr;
    }
    /// The sum of `[{..., 100}, {..., 200}]`.
    [[nodiscard]] std::int64_t vector_bytes(const Value& vectors) const {
        std::int64_t bytes = 0;
        for (const Value& item : vectors.items) {
            const Value* length = field(item, "iov_len");
            if (length == nullptr && item.items.size() > 1) length = &item.items[1];
            if (length != nullptr) bytes += number(*length);
        }
        return bytes;
    }

    void prepare(Outstanding& call) {
        const std::string& name = call.call->name;
        std::int64_t bytes = 0;
        const bool plain = name == "read" || name == "recv" || name == "recvfrom" ||
                           name == "write" || name == "send" || name == "sendto";
        if (plain)
            bytes = number(argument(*call.call, 2));
        else if (name == "readv" || name == "writev")
            bytes = vector_bytes(argument(*call.call, 1));
        else if (name == "sendmsg" || name == "recvmsg") {
            const Value* const vectors = field(argument(*call.call, 1), "msg_iov");
            const Value* alone = field(argument(*call.call, 1), "msg_iov(1)");
            const Value* const found = vectors != nullptr ? vectors : alone;
            if (found == nullptr) skip(name + " without msg_iov");
            for (const Value& item : found->items)
                bytes += item.items.size() > 1 ? number(item.items[1]) : 0;
        }
        if (bytes < 0 || bytes > (64 << 20)) fail("a buffer of that size is not played");
        call.bytes.resize(static_cast<std::size_t>(bytes));
        if (name.starts_with("write") || name.starts_with("send")) {
            const std::uint32_t place = written_bytes_[descriptor(*call.call)];
            for (std::size_t i = 0; i < call.bytes.size(); ++i)
                call.bytes[i] = stream_byte(place + static_cast<std::uint32_t>(i));
        }
    }

    [[nodiscard]] std::optional<CallResult> attempt(Outstanding& call) {
        const Syscall& syscall = *call.call;
        const std::string& name = syscall.name;
        if (name == "socket") return call_socket(syscall);
        if (name == "poll") return call_poll(call);
        const int fd = descriptor(syscall);
        const auto third = [&] { return static_cast<int>(number(argument(syscall, 3))); };
        if (name == "bind") return sockets_.bind(fd, {local_ip(profile_.ipv6), service_port});
        if (name == "listen") {
            listening_afresh_ = true;
            return sockets_.listen(fd, static_cast<int>(number(argument(syscall, 1))));
        }
        if (name == "accept" || name == "accept4") {
            const bool non_blocking =
                name == "accept4" && (number(argument(syscall, 3)) & SOCK_NONBLOCK) != 0;
            const auto new_fd = [&] { return static_cast<int>(number(syscall.result)); };
            return sockets_.accept(fd, new_fd, nullptr, non_blocking);
        }
        if (name == "connect") {
            if (!call.state.begun) connecting_ = true;
            return sockets_.connect(fd, {remote_ip(profile_.ipv6), service_port}, call.state);
        }
        if (name == "read" || name == "readv") return sockets_.receive(fd, call.bytes, 0);
        if (name == "recv" || name == "recvfrom") return sockets_.receive(fd, call.bytes, third());
        if (name == "recvmsg")
            return sockets_.receive(fd, call.bytes, static_cast<int>(number(argument(syscall, 2))));
        if (name == "write" || name == "writev") return written(fd, call, 0);
        if (name == "send" || name == "sendto") return written(fd, call, third());
        if (name == "sendmsg")
            return written(fd, call, static_cast<int>(number(argument(syscall, 2))));
        if (name == "shutdown")
            return sockets_.shutdown(fd, static_cast<int>(number(argument(syscall, 1))));
        if (name == "close") return sockets_.close(fd);
        if (name == "fcntl") {
            const long value = syscall.arguments.size() > 2 ? number(syscall.arguments[2]) : 0;
            return sockets_.file_control(fd, static_cast<int>(number(argument(syscall, 1))), value);
        }
        if (name == "ioctl")
            return sockets_.queue_size(fd, static_cast<unsigned long>(number(argument(syscall, 1))),
                                       outputs_.data());
        if (name == "setsockopt") return call_set_option(fd, syscall);
        if (name == "getsockopt")
            return sockets_.get_option(fd, static_cast<int>(number(argument(syscall, 1))),
                                       static_cast<int>(number(argument(syscall, 2))), outputs_);
        skip("the system call " + name + " is not played");
    }

    [[nodiscard]] std::optional<CallResult> written(int fd, Outstanding& call, int flags) {
        if ((flags & MSG_FASTOPEN) != 0) skip("TCP Fast Open is not played");
        if ((flags & MSG_OOB) != 0) skip("urgent data is not played");
        const auto result = sockets_.send(fd, call.bytes, flags, call.state);
        if (result && result->value > 0)
            written_bytes_[fd] += static_cast<std::uint32_t>(result->value);
        return result;
    }

    [[nodiscard]] CallResult call_socket(const Syscall& syscall) {
        const Value& domain = argument(syscall, 0);
        const bool ipv6 =
            domain.kind == Value::Kind::ellipsis ? profile_.ipv6 : number(domain) == AF_INET6;
        const std::int64_t type = number(argument(syscall, 1));
        if ((type & 0xf) != SOCK_STREAM) skip("only TCP sockets are played");
        const int fd = static_cast<int>(number(syscall.result));
        sockets_.open(fd, ipv6, (type & SOCK_NONBLOCK) != 0);
        read_bytes_.erase(fd);
        written_bytes_.erase(fd);
        return {fd, 0};
    }

    [[nodiscard]] CallResult call_set_option(int fd, const Syscall& syscall) {
        const auto level = static_cast<int>(number(argument(syscall, 1)));
        const auto name = static_cast<int>(number(argument(syscall, 2)));
        const Value& given = argument(syscall, 3);
        std::vector<int> values;
        for (const Value& item : given.items) {
            if (item.kind == Value::Kind::structure) { // [{onoff=1, linger=0}]
                for (const Value& part : item.items)
                    values.push_back(static_cast<int>(number(part)));
            } else if (item.kind != Value::Kind::text) {
                values.push_back(static_cast<int>(number(item)));
            }
        }
        if (values.empty()) values.push_back(0); // a name, as TCP_CONGESTION has: in the profile
        return sockets_.set_option(fd, level, name, values);
    }

    [[nodiscard]] short poll_item(const Value& item) const {
        const Value* const fd = field(item, "fd");
        const Value* const events = field(item, "events");
        if (fd == nullptr || events == nullptr) fail("poll needs fd and events");
        const int asked = static_cast<int>(number(*events)) | POLLERR | POLLHUP | POLLNVAL;
        return static_cast<short>(sockets_.poll_events(static_cast<int>(number(*fd))) & asked);
    }

    [[nodiscard]] std::optional<CallResult> call_poll(Outstanding& call) {
        const Syscall& syscall = *call.call;
        std::int64_t ready = 0;
        for (const Value& item : argument(syscall, 0).items)
            ready += poll_item(item) != 0 ? 1 : 0;
        const std::int64_t timeout_ms = number(argument(syscall, 2));
        const bool over =
            timeout_ms >= 0 && clock_.now() - call.begun >= std::chrono::milliseconds{timeout_ms};
        if (ready == 0 && !over) return std::nullopt;
        return CallResult{ready, 0};
    }

    const Script& script_;
    RunOptions options_;
    Profile profile_;
    std::deque<Captured> captured_;
    bool broken_packet_ = false;
    base::ManualClock clock_;
    base::Loop loop_{clock_};
    RawPort port_;
    net::stack::Stack stack_;
    SocketTable sockets_;

    const Event* event_ = nullptr;
    base::TimePoint start_;
    base::TimePoint last_event_;
    std::optional<Flow> flow_; // the connection that the script's packets belong to
    bool listening_afresh_ = false;
    bool connecting_ = false;
    std::uint16_t next_remote_port_ = 40001;
    std::optional<Outstanding> outstanding_;
    std::array<int, 2> outputs_{};
    std::map<int, std::uint32_t> read_bytes_;
    std::map<int, std::uint32_t> written_bytes_;
};

} // namespace

RunResult run_script(const Script& script, RunOptions options) {
    return Run{script, options}.play();
}

RunResult run_file(const std::string& path, RunOptions options) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    if (!file) return {RunResult::Outcome::failed, path + ": cannot be read", {}};
    auto script = parse_script(text.str(), path);
    if (!script)
        return {RunResult::Outcome::failed,
                path + ":" + std::to_string(script.error().line) + ": " + script.error().message,
                {}};
    return run_script(*script, options);
}

} // namespace tests::packetdrill
