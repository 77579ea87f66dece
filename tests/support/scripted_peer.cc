#include "tests/support/scripted_peer.h"

#include <algorithm>
#include <charconv>
#include <utility>

namespace tests {

using base::Deadline;
using base::Task;

namespace {

constexpr std::size_t line_bytes_max = 4 << 20; // also of content, which tests make as they like

[[nodiscard]] std::string upper(std::string_view text) {
    std::string out{text};
    std::ranges::transform(out, out.begin(), [](char c) {
        return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c;
    });
    return out;
}

/// "MAIL FROM:<a@b> SIZE=3" into "a@b" and "SIZE=3".
void split_path(std::string_view line, std::string& address, std::string& parameters) {
    const std::size_t open = std::min(line.find('<'), line.size());
    const std::size_t close = std::min(line.find('>', open), line.size());
    address = open < close ? line.substr(open + 1, close - open - 1) : std::string_view{};
    parameters = close + 2 <= line.size() ? line.substr(close + 2) : std::string_view{};
}

} // namespace

struct ScriptedPeer::Dialogue {
    Dialogue(ScriptedPeer& owner, base::StreamPtr from)
        : peer(owner), stream(std::move(from)), lines(*stream, line_bytes_max) {
        number = ++peer.connections;
        peer.open_max = std::max(peer.open_max, ++peer.open);
    }
    ~Dialogue() { --peer.open; }
    void reset_mail() {
        mail = {};
        mailing = false;
        accepting = 0;
    }

    ScriptedPeer& peer;
    base::StreamPtr stream;
    base::LineReader lines;
    AcceptedMail mail;
    std::string helo;
    std::string verdict; // the code of the last answer
    unsigned number = 0;
    std::size_t accepting = 0; // recipients accepted in this transaction
    bool mailing = false;
    bool tls = false;
    bool quiet = false; // was told to be silent: reads, and says nothing
};

ScriptedPeer::ScriptedPeer(base::Loop& loop, base::Transport& transport,
                           const base::SocketAddress& address)
    : loop_(loop), address_(address) {
    auto listener = transport.listen(address, {});
    CHECK(listener.has_value());
    listener_ = std::move(*listener);
    address_ = listener_->local();
    loop_.spawn(accept_all(), "scripted peer");
}

void ScriptedPeer::when(std::string verb, PeerAction action, std::string contains, int times) {
    rules_.push_front({std::move(verb), std::move(action), std::move(contains), times});
}

void ScriptedPeer::reply(std::string verb, std::string text, std::string contains, int times) {
    PeerAction action;
    action.reply = std::move(text);
    when(std::move(verb), std::move(action), std::move(contains), times);
}

void ScriptedPeer::without(std::string_view extension) {
    std::erase_if(extensions, [&](const std::string& line) { return line.starts_with(extension); });
}

std::size_t ScriptedPeer::count(std::string_view verb) const {
    return static_cast<std::size_t>(std::ranges::count_if(
        commands, [&](const std::string& line) { return upper(line).starts_with(verb); }));
}

const PeerAction* ScriptedPeer::match(std::string_view verb, std::string_view line) {
    for (PeerRule& rule : rules_) {
        if (rule.verb != verb || rule.times == 0 ||
            line.find(rule.contains) == std::string_view::npos)
            continue;
        if (rule.times > 0) --rule.times;
        matched_ = rule.action;
        return &matched_;
    }
    return nullptr;
}

Task<void> ScriptedPeer::accept_all() {
    for (;;) {
        auto stream = co_await listener_->accept(Deadline::never());
        if (!stream) co_return;
        loop_.spawn(serve(std::move(*stream)), "scripted peer dialogue");
    }
}

Task<void> ScriptedPeer::serve(base::StreamPtr stream) {
    Dialogue dialogue{*this, std::move(stream)};
    bool going = co_await greet(&dialogue);
    while (going) {
        const auto line = co_await dialogue.lines.read_line(Deadline::never());
        if (!line) break;
        std::string text{line->text};
        commands.push_back(text);
        going = co_await converse(&dialogue, std::move(text));
    }
    if (dialogue.stream != nullptr) dialogue.stream->close();
}

Task<bool> ScriptedPeer::greet(Dialogue* dialogue) {
    const bool going = co_await answer(dialogue, "connect", "", "220 " + name + " ESMTP scripted");
    co_return going;
}

/// Answers as a rule says, or as usual. False: the connection is over.
Task<bool> ScriptedPeer::answer(Dialogue* dialogue, std::string verb, std::string line,
                                std::string usual) {
    PeerAction action;
    if (const PeerAction* rule = match(verb, line)) action = *rule;
    if (action.delay.count() > 0) static_cast<void>(co_await base::sleep_for(loop_, action.delay));
    if (action.silent) dialogue->quiet = true;
    const bool over = action.hang_up || action.reset;
    const std::string reply = !action.reply.empty() ? action.reply : over ? std::string{} : usual;
    dialogue->verdict = reply.substr(0, 3);
    if (dialogue->quiet) dialogue->verdict.clear();
    if (!reply.empty() && !dialogue->quiet) {
        const std::string text = reply + "\r\n";
        const auto written =
            co_await dialogue->stream->write(base::as_bytes(text), Deadline::never());
        if (!written) co_return false;
    }
    if (action.reset) dialogue->stream->abort();
    co_return !over;
}

Task<bool> ScriptedPeer::converse(Dialogue* dialogue, std::string line) {
    const std::string verb = upper(std::string_view{line}.substr(0, line.find(' ')));
    if (verb == "EHLO") {
        dialogue->helo = line.substr(std::min<std::size_t>(5, line.size()));
        dialogue->reset_mail();
        std::string usual = "250-" + name;
        std::vector<std::string> offered = extensions;
        if (upgrade && !dialogue->tls) offered.push_back("STARTTLS");
        for (const std::string& extension : offered)
            usual += "\r\n250-" + extension;
        const std::size_t last = usual.rfind("250-");
        usual[last + 3] = ' ';
        const bool going = co_await answer(dialogue, verb, line, usual);
        co_return going;
    }
    if (verb == "HELO") {
        dialogue->helo = line.substr(std::min<std::size_t>(5, line.size()));
        dialogue->reset_mail();
        const bool going = co_await answer(dialogue, verb, line, "250 " + name);
        co_return going;
    }
    if (verb == "STARTTLS") {
        const bool going =
            co_await answer(dialogue, verb, line, upgrade ? "220 2.0.0 go ahead" : "502 5.5.1 no");
        if (!going || dialogue->verdict != "220" || !upgrade) co_return going;
        dialogue->lines.release();
        auto secured = co_await upgrade(std::move(dialogue->stream));
        if (secured == nullptr) co_return false;
        dialogue->stream = std::move(secured);
        dialogue->lines.switch_to(*dialogue->stream);
        dialogue->tls = true;
        co_return true;
    }
    if (verb == "MAIL") {
        const bool nested = dialogue->mailing;
        const bool going = co_await answer(
            dialogue, verb, line, nested ? "503 5.5.1 nested MAIL" : "250 2.1.0 sender ok");
        if (!nested && dialogue->verdict.starts_with('2')) {
            dialogue->reset_mail();
            dialogue->mailing = true;
            split_path(line, dialogue->mail.sender, dialogue->mail.mail_parameters);
        }
        co_return going;
    }
    if (verb == "RCPT") {
        const bool going =
            co_await answer(dialogue, verb, line,
                            dialogue->mailing ? "250 2.1.5 recipient ok" : "503 5.5.1 MAIL first");
        if (dialogue->mailing && dialogue->verdict.starts_with('2')) {
            AcceptedMail::Recipient recipient;
            split_path(line, recipient.address, recipient.parameters);
            dialogue->mail.recipients.push_back(std::move(recipient));
            ++dialogue->accepting;
        }
        co_return going;
    }
    if (verb == "DATA") {
        const bool going =
            co_await answer(dialogue, verb, line,
                            dialogue->accepting > 0 ? "354 go ahead" : "503 5.5.1 RCPT first");
        if (!going || dialogue->verdict != "354") co_return going;
        const bool more = co_await read_data(dialogue);
        co_return more;
    }
    if (verb == "BDAT") {
        const bool more = co_await read_chunk(dialogue, std::move(line));
        co_return more;
    }
    if (verb == "RSET") {
        dialogue->reset_mail();
        const bool going = co_await answer(dialogue, verb, line, "250 2.0.0 reset");
        co_return going;
    }
    if (verb == "QUIT") {
        static_cast<void>(co_await answer(dialogue, verb, line, "221 2.0.0 bye"));
        co_return false;
    }
    const bool going = co_await answer(dialogue, verb, line, "500 5.5.2 unknown command");
    co_return going;
}

Task<bool> ScriptedPeer::read_data(Dialogue* dialogue) {
    for (;;) {
        const auto line = co_await dialogue->lines.read_line(Deadline::never());
        if (!line) co_return false;
        std::string_view text = line->text;
        if (text == "." && line->end == base::LineEnd::crlf) break;
        if (text.starts_with('.')) text.remove_prefix(1);
        dialogue->mail.content.append(text);
        dialogue->mail.content += line->end == base::LineEnd::crlf ? "\r\n" : "\n";
    }
    const bool going = co_await end_of_content(dialogue);
    co_return going;
}

Task<bool> ScriptedPeer::read_chunk(Dialogue* dialogue, std::string line) {
    std::size_t bytes = 0;
    const char* begin = line.data() + std::min<std::size_t>(5, line.size());
    const auto parsed = std::from_chars(begin, line.data() + line.size(), bytes);
    const bool last = upper(std::string_view{parsed.ptr, line.data() + line.size()}) == " LAST";
    dialogue->lines.release();
    std::string chunk;
    while (chunk.size() < bytes) {
        const auto filled = co_await dialogue->stream->fill(Deadline::never());
        if (!filled) co_return false;
        const std::string_view unread = base::as_text(dialogue->stream->unread());
        const std::size_t take = std::min(unread.size(), bytes - chunk.size());
        chunk.append(unread.substr(0, take));
        dialogue->stream->consume(take);
    }
    // RFC 3030 §2: the octets are read even when the command is refused.
    const bool valid = dialogue->mailing && dialogue->accepting > 0;
    if (!valid || !last) {
        const bool going = co_await answer(
            dialogue, "BDAT", line, valid ? "250 2.0.0 chunk ok" : "503 5.5.1 no recipients");
        if (dialogue->verdict.starts_with('2')) {
            dialogue->mail.content += chunk;
            ++dialogue->mail.chunks;
        }
        co_return going;
    }
    dialogue->mail.content += chunk;
    ++dialogue->mail.chunks;
    const bool going = co_await end_of_content(dialogue);
    co_return going;
}

Task<bool> ScriptedPeer::end_of_content(Dialogue* dialogue) {
    // It is accepted when the answer says so, also when that answer is never heard: a duplicate
    // later on then shows in the ledger.
    const bool going = co_await answer(dialogue, ".", dialogue->mail.sender, "250 2.0.0 accepted");
    const bool kept = dialogue->verdict.starts_with('2') || (dialogue->quiet && dialogue->mailing);
    if (kept) {
        dialogue->mail.helo = dialogue->helo;
        dialogue->mail.client = dialogue->stream->info().peer;
        dialogue->mail.time = loop_.now();
        dialogue->mail.connection = dialogue->number;
        dialogue->mail.tls = dialogue->tls;
        if (!on_accepted || on_accepted(dialogue->mail))
            accepted.push_back(std::move(dialogue->mail));
    }
    dialogue->reset_mail();
    co_return going;
}

} // namespace tests
