#include "tests/sim/client.h"

#include "dataplane/base/line_reader.h"
#include "queue/envelope.h"

#include <algorithm>
#include <array>
#include <charconv>

namespace tests::sim {

using base::Deadline;
using base::Task;

namespace {

constexpr std::chrono::minutes patience{30}; // longer than anything the relay may take
constexpr int no_answer = 0;

[[nodiscard]] std::string base64(std::string_view text) {
    constexpr std::string_view alphabet =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string out;
    for (std::size_t i = 0; i < text.size(); i += 3) {
        unsigned bits = 0;
        for (std::size_t k = 0; k < 3; ++k) {
            bits = bits << 8 | (i + k < text.size() ? static_cast<unsigned char>(text[i + k]) : 0U);
        }
        for (std::size_t k = 0; k < 4; ++k)
            out += i + k > text.size() ? '=' : alphabet[bits >> (18 - 6 * k) & 63];
    }
    return out;
}

/// Lines of text, many of which begin with dots.
void append_lines(std::string& out, std::size_t bytes, Random& random) {
    constexpr std::string_view alphabet =
        "abcdefghijklmnopqrstuvwxyz .,-0123456789ABCDEFGHIJKLMNOPQRSTUVWX";
    static_assert(alphabet.size() == 64);
    const std::size_t end = out.size() + bytes;
    while (out.size() < end) {
        std::size_t line_bytes = random.chance(5) ? random.below(900) : random.below(79);
        line_bytes = std::min(line_bytes, end - out.size());
        if (random.chance(10)) out.append(1 + random.below(3), '.');
        while (line_bytes > 0) {
            std::uint64_t bits = random.next();
            const std::size_t here = std::min<std::size_t>(line_bytes, 10);
            for (std::size_t i = 0; i < here; ++i, bits >>= 6)
                out += alphabet[bits & 63];
            line_bytes -= here;
        }
        out += "\r\n";
    }
}

[[nodiscard]] std::string stuffed(std::string_view content) {
    std::string out;
    out.reserve(content.size() + content.size() / 64 + 8);
    bool line_start = true;
    for (const char c : content) {
        if (line_start && c == '.') out += '.';
        out += c;
        line_start = c == '\n';
    }
    return out;
}

class Client {
public:
    Client(Town& town, const ClientPlan& plan) : town_(town), plan_(plan), random_(plan.seed, 2) {}
    Task<void> run();

private:
    enum class Abort : std::uint8_t { never, in_envelope, in_body, after_body };

    Task<bool> connect();
    Task<bool> log_in();
    Task<bool> send_letter();
    Task<bool> send_envelope(Letter* letter, std::string_view tail, bool* wanted);
    Task<bool> send_data(Letter* letter, Abort abort, bool pipelined);
    Task<bool> send_chunks(Letter* letter, Abort abort, bool pipelined);
    Task<void> babble();
    Task<bool> write(std::string_view bytes);
    Task<int> reply();
    Task<bool> finish(Letter* letter, Abort abort);
    void hang_up();
    Letter& compose();
    void compose_content(Letter& letter);
    [[nodiscard]] std::string mail_command(const Letter& letter);
    [[nodiscard]] std::string rcpt_command(const Letter::Recipient& recipient);

    Town& town_;
    ClientPlan plan_;
    Random random_;
    base::StreamPtr stream_;
    std::optional<base::LineReader> reader_;
    bool by_bdat_ = false;
    bool smuggles_ = false;
    std::size_t smuggled_at_ = 0; // from here on the content goes out as it is
};

// ---- what it sends

Letter& Client::compose() {
    Letter& letter = town_.audit.new_letter();
    const std::string name = "m" + std::to_string(letter.number);
    if (!random_.chance(8)) letter.sender = name + '@' + std::string{sender_domain};
    switch (plan_.kind) {
    case ClientKind::honest:
        break;
    case ClientKind::wrong_password:
        letter.forbidden = "its client had the wrong password";
        break;
    case ClientKind::disabled:
        letter.forbidden = "its client's account is disabled";
        break;
    case ClientKind::stranger:
    case ClientKind::garbage:
        letter.forbidden = "its client had no credentials";
        break;
    }
    const std::uint64_t count = random_.chance(60) ? 1 : random_.between(2, 8);
    for (std::uint64_t i = 0; i < count; ++i) {
        const std::size_t domain = random_.below(town_.domains.size());
        Letter::Recipient recipient;
        recipient.address = "r" + std::to_string(i) + '.' + name + '@' + town_.domains[domain];
        recipient.domain = domain;
        if (random_.chance(30)) {
            recipient.notify = static_cast<std::uint8_t>(random_.pick<int>(
                {queue::notify_never, queue::notify_failure, queue::notify_success,
                 queue::notify_failure | queue::notify_delay,
                 queue::notify_success | queue::notify_failure}));
        }
        letter.recipients.push_back(std::move(recipient));
    }
    by_bdat_ = random_.chance(40);
    compose_content(letter);
    return letter;
}

void Client::compose_content(Letter& letter) {
    std::string& content = letter.content;
    const std::uint64_t draw = town_.heavy ? random_.between(60, 130) : random_.below(100);
    const std::uint64_t bytes = draw < 10   ? random_.between(1, 3)
                                : draw < 55 ? random_.between(1, 2'000)
                                : draw < 80 ? random_.between(2'000, 20'000)
                                : draw < 93 ? random_.between(20'000, 150'000)
                                            : random_.between(town_.big_bytes / 4, town_.big_bytes);
    if (random_.chance(85) && bytes > 200) {
        content = "From: <" + letter.sender + ">\r\nSubject: letter " +
                  std::to_string(letter.number) + "\r\n";
        if (random_.chance(50))
            content += "Message-ID: <" + std::to_string(letter.number) + "@client.test>\r\n";
        if (random_.chance(50)) content += "Date: Thu, 1 Jan 2026 00:00:00 +0000\r\n";
        content += "\r\n";
    }
    const std::size_t body_bytes = bytes > content.size() ? bytes - content.size() : 1;
    append_lines(content, random_.below(body_bytes + 1), random_);
    if (town_.rules && random_.chance(12)) {
        switch (random_.below(3)) {
        case 0:
            content += "a line with SIMREJECT in it\r\n";
            letter.forbidden = "a screening rule rejects it";
            break;
        case 1:
            content += "a line with SIMDEFER in it\r\n";
            letter.forbidden = "a screening rule defers it";
            break;
        case 2:
            content += "a line with SIMTAG in it\r\n";
            letter.tagged = true;
            break;
        }
    }
    if (content.size() < bytes) append_lines(content, bytes - content.size(), random_);
    smuggles_ = !by_bdat_ && plan_.kind == ClientKind::honest && random_.chance(5);
    if (smuggles_) {
        smuggled_at_ = content.size() + 5; // behind "end"
        const std::string name = ".m" + std::to_string(letter.number) + '@' + town_.domains.front();
        content += "end\r\n";
        content += random_.pick<const char*>({"\n.\n", "\n.\r\n", "\r.\r\n", "x\n.\n", "\r\r\n"});
        content += "MAIL FROM:<>\r\nRCPT TO:<r99" + name + ">\r\nDATA\r\nsmuggled\r\n";
        letter.forbidden = "it has a bare newline";
    } else if (by_bdat_ && random_.chance(20)) {
        content.resize(std::max<std::size_t>(content.size() - 2, 1));
        if (content.back() == '\r') content += '\n';
    }
    if (content.size() > town_.message_bytes_max) letter.forbidden = "it is larger than the limit";
}

std::string Client::mail_command(const Letter& letter) {
    std::string line = "MAIL FROM:<" + letter.sender + '>';
    if (random_.chance(50)) line += " SIZE=" + std::to_string(letter.content.size());
    // It is plain ASCII. Of larger mail the relay would believe it, and bounce it where that is not offered.
    if (random_.chance(10) && letter.content.size() < 16'000) line += " BODY=8BITMIME";
    if (random_.chance(20)) line += random_.chance(50) ? " RET=FULL" : " RET=HDRS";
    if (random_.chance(10)) line += " ENVID=e" + std::to_string(letter.number);
    return line + "\r\n";
}

std::string Client::rcpt_command(const Letter::Recipient& recipient) {
    std::string line = "RCPT TO:<" + recipient.address + '>';
    if (recipient.notify == queue::notify_never) {
        line += " NOTIFY=NEVER";
    } else if (recipient.notify != 0) {
        line += " NOTIFY=";
        if ((recipient.notify & queue::notify_success) != 0) line += "SUCCESS,";
        if ((recipient.notify & queue::notify_failure) != 0) line += "FAILURE,";
        if ((recipient.notify & queue::notify_delay) != 0) line += "DELAY,";
        line.pop_back();
    }
    if (random_.chance(10)) line += " ORCPT=rfc822;" + recipient.address;
    return line + "\r\n";
}

// ---- how it speaks

Task<bool> Client::write(std::string_view bytes) {
    while (!bytes.empty()) {
        const std::size_t here =
            random_.chance(70) ? bytes.size() : 1 + random_.below(bytes.size());
        const auto written = co_await stream_->write(base::as_bytes(bytes.substr(0, here)),
                                                     Deadline::in(town_.loop, patience));
        if (!written) co_return false;
        bytes.remove_prefix(here);
        if (bytes.empty() || !random_.chance(30)) continue;
        const bool very_slow = random_.chance(3);
        static_cast<void>(co_await base::sleep_for(
            town_.loop, random_.time(std::chrono::milliseconds{0},
                                     std::chrono::milliseconds{very_slow ? 60'000 : 50})));
    }
    co_return true;
}

/// The code of the next reply; no_answer when the connection is over.
Task<int> Client::reply() {
    std::string text;
    for (;;) {
        const auto line = co_await reader_->read_line(Deadline::in(town_.loop, patience));
        if (!line) {
            if (line.error() == base::NetError::timed_out)
                town_.audit.violation("the relay says nothing to a client");
            town_.audit.trace("client", std::to_string(plan_.seed) + " <" +
                                            std::string{to_string(line.error())} + '>');
            co_return no_answer;
        }
        text += line->text;
        const bool last = line->text.size() < 4 || line->text[3] != '-';
        if (last) break;
        text += '|';
    }
    int code = no_answer;
    std::from_chars(text.data(), text.data() + text.size(), code);
    if (code < 200 || code > 599)
        town_.audit.violation("the relay says nonsense: " + text.substr(0, 80));
    town_.audit.trace("client", std::to_string(plan_.seed) + ' ' + text);
    co_return code;
}

void Client::hang_up() {
    if (random_.chance(50)) {
        stream_->abort();
    } else {
        stream_->close();
    }
}

Task<bool> Client::connect() {
    const std::uint8_t net = plan_.listed ? 1 : 2;
    const auto from =
        base::IpAddress::v4({10, net, 0, static_cast<std::uint8_t>(random_.between(1, 9))});
    const base::SocketAddress to = plan_.submission ? town_.submission_port : town_.relay_port;
    for (unsigned attempt = 0; attempt < 6; ++attempt) {
        auto stream = co_await town_.net.connect(
            to, from, Deadline::in(town_.loop, std::chrono::seconds{30}));
        if (stream) {
            stream_ = std::move(*stream);
            reader_.emplace(*stream_, 8192);
            co_return true;
        }
        static_cast<void>(co_await base::sleep_for(
            town_.loop, random_.time(std::chrono::seconds{1}, std::chrono::seconds{10})));
    }
    co_return false;
}

Task<bool> Client::log_in() {
    const bool needed = plan_.submission || !plan_.listed;
    if (plan_.kind == ClientKind::stranger || (plan_.kind == ClientKind::honest && !needed))
        co_return true;
    const bool wrong = plan_.kind == ClientKind::wrong_password;
    const std::string user{plan_.kind == ClientKind::disabled ? disabled_name : account_name};
    const std::string password =
        wrong ? random_.pick<const char*>({"wrong", "correct hors", "correct horse "})
              : std::string{account_password};
    const std::uint64_t tries = wrong ? random_.between(1, 4) : 1;
    for (std::uint64_t i = 0; i < tries; ++i) {
        int code = no_answer;
        if (random_.chance(50)) {
            const std::string plain = '\0' + user + '\0' + password;
            const bool at_once = random_.chance(50);
            const std::string secret = base64(plain) + "\r\n";
            std::string command = "AUTH PLAIN";
            command += at_once ? ' ' + secret : "\r\n";
            bool sent = co_await write(command);
            if (!sent) co_return false;
            code = co_await reply();
            if (!at_once && code == 334) {
                sent = co_await write(secret);
                if (!sent) co_return false;
                code = co_await reply();
            }
        } else {
            bool sent = co_await write("AUTH LOGIN\r\n");
            if (!sent) co_return false;
            code = co_await reply();
            for (unsigned step = 0; step < 2 && code == 334; ++step) {
                const std::string secret = base64(step == 0 ? user : password) + "\r\n";
                sent = co_await write(secret);
                if (!sent) co_return false;
                code = co_await reply();
            }
        }
        if (code == no_answer || code == 421) co_return false;
        if (code == 235 && plan_.kind != ClientKind::honest)
            town_.audit.violation("a client logged in that must not");
        if (code != 235 && plan_.kind == ClientKind::honest) co_return false;
    }
    co_return true;
}

Task<void> Client::run() {
    const bool connected = co_await connect();
    if (!connected) co_return;
    if (plan_.kind == ClientKind::garbage) co_return co_await babble();
    int code = co_await reply();
    if (code != 220) co_return;
    const bool greeted = co_await write("EHLO client.test\r\n");
    if (!greeted) co_return;
    code = co_await reply();
    if (code != 250) co_return;
    const bool ready = co_await log_in();
    if (!ready) co_return;
    for (std::uint32_t i = 0; i < plan_.letters; ++i) {
        const bool open = co_await send_letter();
        if (!open) co_return;
        if (!random_.chance(30)) continue;
        static_cast<void>(co_await base::sleep_for(
            town_.loop, random_.time(std::chrono::milliseconds{1}, std::chrono::seconds{20})));
    }
    if (!random_.chance(70)) co_return hang_up();
    const bool said = co_await write("QUIT\r\n");
    if (said) static_cast<void>(co_await reply());
}

/// One transaction. False when the connection is over.
Task<bool> Client::send_letter() {
    Letter& letter = compose();
    const Abort abort = random_.chance(90)
                            ? Abort::never
                            : random_.pick({Abort::in_envelope, Abort::in_body, Abort::after_body});
    const bool pipelined = random_.chance(50);
    bool open = true;
    bool wanted = false;
    if (abort == Abort::in_envelope) {
        const std::string commands = mail_command(letter) + rcpt_command(letter.recipients.front());
        open = co_await write(commands.substr(0, random_.below(commands.size())));
        hang_up();
        co_return false;
    }
    if (by_bdat_ && pipelined) co_return co_await send_chunks(&letter, abort, true);
    const std::string_view tail = pipelined ? "DATA\r\n" : "";
    open = co_await send_envelope(&letter, tail, &wanted);
    if (!open) co_return false;
    if (wanted && by_bdat_) co_return co_await send_chunks(&letter, abort, false);
    if (wanted) co_return co_await send_data(&letter, abort, pipelined);
    // Refused: over to the next.
    open = co_await write("RSET\r\n");
    if (!open) co_return false;
    const int code = co_await reply();
    co_return code == 250;
}

/// MAIL, RCPTs and `tail`, in one write when there is a tail. `wanted`: content may follow.
Task<bool> Client::send_envelope(Letter* letter, std::string_view tail, bool* wanted) {
    const bool pipelined = !tail.empty();
    std::string commands = mail_command(*letter);
    for (const Letter::Recipient& recipient : letter->recipients) {
        if (!pipelined) break;
        commands += rcpt_command(recipient);
    }
    commands += tail;
    bool sent = co_await write(commands);
    if (!sent) co_return false;
    int code = co_await reply();
    if (code == 250 && !letter->forbidden.empty() && plan_.kind != ClientKind::honest) {
        town_.audit.violation("MAIL of letter " + std::to_string(letter->number) +
                              " was accepted: " + letter->forbidden);
    }
    if (code == no_answer || code == 421) co_return false;
    bool any = false;
    const bool mailed = code == 250;
    for (Letter::Recipient& recipient : letter->recipients) {
        if (!pipelined && !mailed) co_return true;
        if (!pipelined) {
            const std::string command = rcpt_command(recipient);
            sent = co_await write(command);
            if (!sent) co_return false;
        }
        code = co_await reply();
        if (code == no_answer || code == 421) co_return false;
        recipient.code = code;
        any |= code == 250;
    }
    *wanted = any;
    co_return true;
}

Task<bool> Client::send_data(Letter* letter, Abort abort, bool pipelined) {
    if (!pipelined) {
        const bool sent = co_await write("DATA\r\n");
        if (!sent) co_return false;
    }
    const int code = co_await reply();
    if (code == no_answer || code == 421) co_return false;
    if (code != 354) co_return true;
    const std::string_view content = letter->content;
    const std::size_t honest_bytes = smuggles_ ? smuggled_at_ : content.size();
    std::string wire = stuffed(content.substr(0, honest_bytes));
    wire.append(content.substr(honest_bytes)) += ".\r\n";
    const std::string_view rest = wire;
    if (abort == Abort::in_body) {
        static_cast<void>(co_await write(rest.substr(0, random_.below(wire.size() - 4))));
        hang_up();
        co_return false;
    }
    const std::size_t first = random_.below(wire.size() - 4);
    const bool sent = co_await write(rest.substr(0, first));
    if (!sent) co_return false;
    letter->state = Letter::State::complete;
    const bool ended = co_await write(rest.substr(first));
    // A write that fails may have taken the end along, and a refusal may be there to be read.
    static_cast<void>(ended);
    co_return co_await finish(letter, abort);
}

/// BDATs, each answered on its own, or with the envelope in front and all at once.
Task<bool> Client::send_chunks(Letter* letter, Abort abort, bool pipelined) {
    std::string_view rest = letter->content;
    std::vector<std::string> chunks;
    const bool empty_last = random_.chance(20);
    while (!rest.empty()) {
        const bool all = chunks.size() > 6 || random_.chance(50);
        const std::size_t here = all ? rest.size() : 1 + random_.below(rest.size());
        const bool last = here == rest.size() && !empty_last;
        std::string chunk = "BDAT " + std::to_string(here) + (last ? " LAST\r\n" : "\r\n");
        chunk += rest.substr(0, here);
        rest.remove_prefix(here);
        chunks.push_back(std::move(chunk));
    }
    if (empty_last) chunks.emplace_back("BDAT 0 LAST\r\n");
    if (abort == Abort::in_body) {
        std::string wire;
        if (pipelined) {
            wire = mail_command(*letter);
            for (const Letter::Recipient& recipient : letter->recipients)
                wire += rcpt_command(recipient);
        }
        for (const std::string& chunk : chunks)
            wire += chunk;
        wire.resize(random_.below(wire.size())); // lacks at least the last byte
        static_cast<void>(co_await write(wire));
        hang_up();
        co_return false;
    }
    if (pipelined) {
        std::string last = std::move(chunks.back());
        chunks.pop_back();
        std::string tail;
        for (const std::string& chunk : chunks)
            tail += chunk;
        tail += last;
        bool wanted = false;
        letter->state = Letter::State::complete;
        const bool open = co_await send_envelope(letter, tail, &wanted);
        if (!open) {
            letter->state = Letter::State::unknown;
            co_return false;
        }
        for (std::size_t i = 0; i < chunks.size(); ++i) {
            const int code = co_await reply();
            if (code == no_answer || code == 421) {
                letter->state = Letter::State::unknown;
                co_return false;
            }
        }
        co_return co_await finish(letter, abort);
    }
    for (std::size_t i = 0; i < chunks.size(); ++i) {
        const bool last = i + 1 == chunks.size();
        if (last) letter->state = Letter::State::complete;
        const bool sent = co_await write(chunks[i]);
        if (last) break;
        if (!sent) co_return false;
        const int code = co_await reply();
        if (code == no_answer || code == 421) co_return false;
        if (code == 250) continue;
        const bool reset =
            co_await write("RSET\r\n"); // it is refused: the rest is not worth sending
        if (!reset) co_return false;
        const int cleared = co_await reply();
        co_return cleared == 250;
    }
    co_return co_await finish(letter, abort);
}

/// The answer to the whole message.
Task<bool> Client::finish(Letter* letter, Abort abort) {
    if (abort == Abort::after_body) {
        letter->state = Letter::State::unknown;
        hang_up();
        co_return false;
    }
    const int code = co_await reply();
    if (code == no_answer) {
        letter->state = Letter::State::unknown;
        co_return false;
    }
    town_.audit.answer(*letter, code);
    co_return code != 421;
}

/// Says things that no server should choke on, and reads nothing of the answers.
Task<void> Client::babble() {
    const std::uint64_t steps = random_.between(1, 60);
    for (std::uint64_t i = 0; i < steps; ++i) {
        std::string bytes;
        switch (random_.below(9)) {
        case 0:
            bytes = random_.pick<const char*>({"EHLO x\r\n", "HELO\r\n", "RSET\r\n", "NOOP x\r\n",
                                               "VRFY <a>\r\n", "STARTTLS\r\n"});
            break;
        case 1:
            bytes = "MAIL FROM:<" + std::string(random_.below(3000), 'a') + ">\r\n";
            break;
        case 2:
            bytes = "RCPT TO:<r0.m999999@" + town_.domains.front() + ">\r\n";
            break;
        case 3:
            bytes = "BDAT " + std::to_string(random_.next()) + " LAST\r\n";
            break;
        case 4:
            bytes = "BDAT " + std::to_string(random_.below(5000)) + "\r\n";
            break;
        case 5:
            bytes = std::string(random_.below(20'000), 'x');
            break;
        case 6:
            for (std::uint64_t k = random_.below(300); k > 0; --k)
                bytes += static_cast<char>(random_.next());
            break;
        case 7:
            bytes = random_.pick<const char*>(
                {"AUTH PLAIN\r\n", "AUTH PLAIN =\r\n", "*\r\n", "AUTH LOGIN !!!\r\n", "AUTH\r\n"});
            break;
        case 8:
            bytes = random_.pick<const char*>(
                {"DATA\n", "\r\n.\r\n", "\n.\n", "MAIL FROM:<a@b>\nRCPT TO:<c@d>\n", "DATA\r\n"});
            break;
        }
        const bool sent = co_await write(bytes);
        if (!sent) co_return;
        stream_->consume(stream_->unread().size());
    }
    hang_up();
}

Task<void> run(Town* town, ClientPlan plan) {
    Client client{*town, plan};
    co_await client.run();
}

} // namespace

Task<void> run_client(Town* town, ClientPlan plan) {
    return run(town, plan);
}

} // namespace tests::sim
