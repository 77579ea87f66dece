// executor_test.cc: the interpreter itself: scripts that are wrong in one thing must fail, and say in which.

#include "tests/dataplane/net/packetdrill/executor.h"
#include "tests/dataplane/net/packetdrill/parser.h"

#include <gtest/gtest.h>

namespace tests::packetdrill {

namespace {

constexpr std::string_view handshake = "0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n"
                                       "+0 bind(3, ..., ...) = 0\n"
                                       "+0 listen(3, 1) = 0\n"
                                       "+0 < S 0:0(0) win 65535 <mss 1460>\n"
                                       "+0 > S. 0:0(0) ack 1 <mss 1460>\n"
                                       "+.1 < . 1:1(0) ack 1 win 65535\n"
                                       "+0 accept(3, ..., ...) = 4\n"; // line 7

RunResult play(std::string_view rest, bool strict = false) {
    const auto script = parse_script(std::string(handshake) + std::string(rest), "inline.pkt");
    EXPECT_TRUE(script) << (script ? "" : script.error().message);
    return run_script(*script, {.strict_end = strict});
}
void expect_failure(std::string_view rest, std::string_view part, bool strict = false) {
    const RunResult result = play(rest, strict);
    EXPECT_EQ(result.outcome, RunResult::Outcome::failed) << rest;
    EXPECT_NE(result.message.find(part), std::string::npos) << result.message;
}

TEST(PacketdrillExecutor, PassesWhatIsRight) {
    const RunResult result = play("+0 write(4, ..., 100) = 100\n+0 > P. 1:101(100) ack 1\n", true);
    EXPECT_EQ(result.outcome, RunResult::Outcome::passed) << result.message;
}

TEST(PacketdrillExecutor, TellsWhichFieldOfAPacketDiffers) {
    const std::string write = "+0 write(4, ..., 100) = 100\n";
    expect_failure(write + "+0 > . 1:101(100) ack 1\n",
                   "inline.pkt:9: error handling packet: live packet field tcp_flags");
    expect_failure(write + "+0 > P. 2:102(100) ack 1\n", "tcp_seq: expected: 2 vs actual: 1");
    expect_failure(write + "+0 > P. 1:102(101) ack 1\n",
                   "payload length: expected: 101 vs actual: 100");
    expect_failure(write + "+0 > P. 1:101(100) ack 2\n", "tcp_ack: expected: 2 vs actual: 1");
    expect_failure(write + "+0 > P. 1:101(100) ack 1 win 1\n", "tcp_window: expected: 1");
    expect_failure(write + "+0 > P. 1:101(100) ack 1 <nop>\n", "TCP options");
    expect_failure(write + "+0 > [ce] P. 1:101(100) ack 1\n", "ECN");
    expect_failure(write + "+0 > P. 1:101(100) ack 2\n",
                   "script packet:  0.100000 P. 1:101(100) ack 2\nactual packet:  0.100000 P. "
                   "1:101(100) ack 1");
}

TEST(PacketdrillExecutor, TellsPacketsThatAreMissingLateEarlyOrTooMany) {
    expect_failure("+0 > . 1:1(0) ack 1\n", "none came");
    expect_failure("+0 write(4, ..., 100) = 100\n+.1 > P. 1:101(100) ack 1\n", "timing error");
    expect_failure("+0 write(4, ..., 100) = 100\n+0.1~+0.2 > P. 1:101(100) ack 1\n",
                   "timing error");
    expect_failure("+0 write(4, ..., 100) = 100\n", "one more than the script expects", true);
    EXPECT_EQ(play("+0 write(4, ..., 100) = 100\n").outcome, RunResult::Outcome::passed);
}

TEST(PacketdrillExecutor, TellsResultsThatDiffer) {
    expect_failure("+0 write(4, ..., 100) = 99\n",
                   "inline.pkt:8: runtime error in write call: expected 99 but got 100");
    expect_failure("+0 close(9) = 0\n", "got -1 EBADF");
    expect_failure("+0 recv(4, ..., 100, MSG_DONTWAIT) = -1 EPIPE (x)\n",
                   "expected -1 EPIPE but got -1 EAGAIN");
    expect_failure("+0 getsockopt(4, SOL_SOCKET, SO_ERROR, [7], [4]) = 0\n",
                   "expected [7] but got [0]");
    expect_failure("+0 read(4, ..., 100) = 1\n", "has not returned");
    expect_failure(
        "+0...0.2 read(4, ..., 100) = 10\n+.1 < P. 1:11(10) ack 1 win 9\n* > . 1:1(0) ack 11\n",
        "expected read to return at 0.300000 sec but it returned at 0.2");
    expect_failure("+0 poll([{fd=4, events=POLLOUT, revents=POLLIN}], 1, 0) = 1\n", "revents");
}

TEST(PacketdrillExecutor, SkipsWhatItCannotPlay) {
    EXPECT_EQ(play("+0 sendfile(4, 5, [0], 100) = 100\n").outcome, RunResult::Outcome::skipped);
    EXPECT_EQ(play("+0 setsockopt(4, SOL_TCP, TCP_NO_SUCH, [1], 4) = 0\n").outcome,
              RunResult::Outcome::skipped);
    const RunResult asserted = play("+0 %{ assert tcpi_snd_cwnd == 10 }%\n");
    EXPECT_EQ(asserted.outcome, RunResult::Outcome::passed);
    EXPECT_EQ(asserted.notes.size(), 1U);
}

TEST(PacketdrillExecutor, RefusesTimeThatGoesBackwards) {
    expect_failure("+1 close(4) = 0\n0.5 close(3) = 0\n", "backwards");
}

TEST(PacketdrillExecutor, MissingFileIsAFailure) {
    EXPECT_EQ(run_file("/nonexistent.pkt").outcome, RunResult::Outcome::failed);
}

} // namespace

} // namespace tests::packetdrill
