#include "dataplane/smtp/command_parser.h"

#include "dataplane/smtp/limits.h"

#include <gtest/gtest.h>
#include <string>
#include <utility>
#include <vector>

namespace dataplane::smtp {

void PrintTo(CommandError error, std::ostream* out) {
    *out << static_cast<int>(error) << " (" << reply_to(error).code << " " << reply_to(error).text
         << ")";
}

namespace {

using Error = CommandError;

/// The parsed command of type T; a failure of the test when the line gives anything else.
template <class T>
T parsed(std::string_view line) {
    const auto command = parse_command(line);
    if (!command) {
        ADD_FAILURE() << line << ": " << reply_to(command.error()).text;
        return T{};
    }
    const T* wanted = std::get_if<T>(&*command);
    EXPECT_NE(wanted, nullptr) << line;
    return wanted != nullptr ? *wanted : T{};
}

Error error_of(std::string_view line) {
    const auto command = parse_command(line);
    EXPECT_FALSE(command.has_value()) << line << " was accepted";
    return command ? Error::unknown_command : command.error();
}

TEST(CommandParser, KnowsEveryVerbInAnyCase) {
    parsed<Ehlo>("EHLO client.example");
    parsed<Helo>("helo client.example");
    parsed<Mail>("mAiL fRoM:<a@b.example>");
    parsed<Rcpt>("rcpt to:<a@b.example>");
    parsed<Data>("data");
    parsed<Bdat>("bdat 1");
    parsed<Rset>("Rset");
    parsed<Noop>("NOOP");
    parsed<Noop>("NOOP anything at all");
    parsed<Quit>("QUIT");
    parsed<Vrfy>("VRFY someone");
    parsed<Expn>("EXPN list");
    parsed<Help>("HELP MAIL");
    parsed<StartTls>("STARTTLS");
    parsed<Auth>("AUTH PLAIN");
}

TEST(CommandParser, RefusesWhatIsNoCommand) {
    for (const char* line : {"", " ", "FOO", "MAILFROM:<a@b>", "DATAX", "GET / HTTP/1.1",
                             " MAIL FROM:<a@b>", "EHLO\tx"}) {
        const auto command = parse_command(line);
        ASSERT_FALSE(command.has_value()) << line;
        EXPECT_EQ(reply_to(command.error()).code, 500) << line;
    }
}

TEST(CommandParser, RefusesControlCharactersEverywhere) {
    for (int c = 0; c < 0x20; ++c) {
        const std::string line = "NOOP a" + std::string(1, static_cast<char>(c)) + "b";
        EXPECT_EQ(error_of(line), Error::bad_character) << c;
    }
    EXPECT_EQ(error_of("NOOP a\x7f"), Error::bad_character);
    EXPECT_EQ(error_of(std::string_view{"MAIL FROM:<a\0@b.example>", 24}), Error::bad_character);
}

TEST(CommandParser, ToleratesBlanksAtTheEnd) {
    parsed<Data>("DATA ");
    parsed<Quit>("QUIT \t ");
    EXPECT_EQ(parsed<Mail>("MAIL FROM:<a@b.example>  ").from.address, "a@b.example");
}

TEST(CommandParser, RefusesArgumentsWhereThereAreNone) {
    for (const char* line : {"DATA now", "RSET all", "QUIT please", "STARTTLS 1"}) {
        EXPECT_EQ(error_of(line), Error::no_arguments_expected) << line;
    }
}

TEST(CommandParser, WantsAHelloNameThatIsSafeInAHeader) {
    EXPECT_EQ(parsed<Ehlo>("EHLO my_host.local").name, "my_host.local");
    EXPECT_EQ(parsed<Ehlo>("EHLO [127.0.0.1]").name, "[127.0.0.1]");
    EXPECT_EQ(parsed<Helo>("HELO [IPv6:::1]").name, "[IPv6:::1]");
    for (const std::string& line :
         std::vector<std::string>{"EHLO", "HELO", "EHLO a b", "EHLO b\xc3\xbc.example",
                                  "EHLO (evil)", "EHLO a;b", "EHLO \xff", "EHLO <x>", "EHLO a,b"}) {
        EXPECT_EQ(error_of(line), Error::bad_helo) << line;
    }
    EXPECT_EQ(error_of("EHLO " + std::string(256, 'a')), Error::bad_helo);
}

TEST(CommandParser, EndsLinesAtTheirLimits) {
    EXPECT_EQ(error_of("NOOP " + std::string(command_line_bytes_max, 'x')), Error::line_too_long);
    EXPECT_EQ(error_of("AUTH PLAIN " + std::string(auth_line_bytes_max, 'x')),
              Error::auth_line_too_long);
    parsed<Noop>("NOOP " + std::string(command_line_bytes_max - 7, 'x'));
    parsed<Auth>("AUTH PLAIN " + std::string(auth_line_bytes_max - 13, 'x'));
}

// Addresses.

TEST(CommandParser, TakesAddressesApart) {
    const Path plain = parsed<Mail>("MAIL FROM:<user+tag@mail.example>").from;
    EXPECT_EQ(plain.address, "user+tag@mail.example");
    EXPECT_EQ(plain.local_part, "user+tag");
    EXPECT_EQ(plain.domain, "mail.example");
    EXPECT_FALSE(plain.utf8);

    const Path quoted = parsed<Rcpt>(R"(RCPT TO:<"a b\"@> c"@x.example>)").to;
    EXPECT_EQ(quoted.local_part, R"("a b\"@> c")");
    EXPECT_EQ(quoted.domain, "x.example");

    EXPECT_EQ(parsed<Rcpt>("RCPT TO:<a@[192.0.2.1]>").to.domain, "[192.0.2.1]");
    EXPECT_EQ(parsed<Rcpt>("RCPT TO:<a@[IPv6:2001:db8::1]>").to.domain, "[IPv6:2001:db8::1]");
    EXPECT_EQ(parsed<Rcpt>("RCPT TO: <a@b.example>").to.address, "a@b.example");
}

TEST(CommandParser, TakesTheNullPathOnlyFromTheSender) {
    EXPECT_EQ(parsed<Mail>("MAIL FROM:<>").from.address, "");
    EXPECT_EQ(error_of("RCPT TO:<>"), Error::bad_recipient);
}

TEST(CommandParser, TakesPostmasterWithoutDomainOnlyAsRecipient) {
    EXPECT_EQ(parsed<Rcpt>("RCPT TO:<PostMaster>").to.local_part, "PostMaster");
    EXPECT_EQ(parsed<Rcpt>("RCPT TO:<PostMaster>").to.domain, "");
    EXPECT_EQ(error_of("MAIL FROM:<postmaster>"), Error::bad_sender);
    EXPECT_EQ(error_of("RCPT TO:<someone>"), Error::bad_recipient);
}

TEST(CommandParser, DropsSourceRoutes) {
    const Path path = parsed<Rcpt>("RCPT TO:<@one.example,@two.example:user@three.example>").to;
    EXPECT_EQ(path.address, "user@three.example");
    for (const char* line : {"RCPT TO:<@:user@x.example>", "RCPT TO:<@one,two:user@x.example>",
                             "RCPT TO:<@one user@x.example>"}) {
        EXPECT_EQ(error_of(line), Error::bad_recipient) << line;
    }
}

TEST(CommandParser, RefusesBadAddresses) {
    const std::vector<std::string> bad{"<a>",
                                       "<@x.example>",
                                       "<a@>",
                                       "<a@b@c.example>",
                                       "<a b@x.example>",
                                       "<a@x..example>",
                                       "<a@.x>",
                                       "<a@x.>",
                                       "<a@-x.example>",
                                       "<a@x-.example>",
                                       "<.a@x.example>",
                                       "<a.@x.example>",
                                       "<a..b@x>",
                                       "<\"a@x.example>",
                                       "<\"a\"b@x>",
                                       "<a@[1.2.3]>",
                                       "<a@[300.1.1.1]>",
                                       "<a@[IPv6:1.2.3.4:]>",
                                       "<a@[::1]>",
                                       "<a@[tag:x]>",
                                       "<a@x.example",
                                       "<a@x!y>",
                                       "<a(c)@x.example>",
                                       "<a@x y>",
                                       "<<a@x>>",
                                       "<\"\\\">",
                                       "<a@b,c@d>",
                                       "<a@[IPv6:]>",
                                       "<a@[]>",
                                       "<a@[192.0.2.1>"};
    for (const std::string& path : bad) {
        EXPECT_EQ(error_of("RCPT TO:" + path), Error::bad_recipient) << path;
        EXPECT_EQ(error_of("MAIL FROM:" + path), Error::bad_sender) << path;
    }
}

TEST(CommandParser, RefusesPathsWithoutBrackets) {
    EXPECT_EQ(error_of("MAIL FROM:a@b.example"), Error::bad_mail_syntax);
    EXPECT_EQ(error_of("MAIL FROM:"), Error::bad_mail_syntax);
    EXPECT_EQ(error_of("MAIL"), Error::bad_mail_syntax);
    EXPECT_EQ(error_of("MAIL TO:<a@b.example>"), Error::bad_mail_syntax);
    EXPECT_EQ(error_of("RCPT FROM:<a@b.example>"), Error::bad_rcpt_syntax);
    EXPECT_EQ(error_of("RCPT TO:a@b.example"), Error::bad_rcpt_syntax);
    EXPECT_EQ(error_of("MAIL FROM:<a@b.example>SIZE=1"), Error::bad_mail_syntax);
    EXPECT_EQ(error_of("RCPT TO:<a@b.example><c@d.example>"), Error::bad_rcpt_syntax);
}

TEST(CommandParser, HoldsToTheLengthsOfRfc5321) {
    const std::string local(64, 'l');
    const std::string label(63, 'd');
    const std::string domain = label + "." + label + "." + std::string(254 - 64 - 1 - 128, 'e');
    ASSERT_EQ(local.size() + 1 + domain.size(), 254U);
    EXPECT_EQ(parsed<Rcpt>("RCPT TO:<" + local + "@" + domain + ">").to.address.size(), 254U);
    EXPECT_EQ(error_of("RCPT TO:<" + local + "@" + domain + "e>"), Error::path_too_long);
    EXPECT_EQ(error_of("RCPT TO:<l" + local + "@x.example>"), Error::path_too_long);
    EXPECT_EQ(error_of("RCPT TO:<l@" + label + "d.example>"), Error::bad_recipient);
    const std::string long_domain = label + "." + label + "." + label + "." + label + ".x";
    EXPECT_EQ(error_of("RCPT TO:<l@" + long_domain + ">"), Error::path_too_long);
}

TEST(CommandParser, WantsSmtputf8ForNonAsciiSenders) {
    EXPECT_TRUE(parsed<Mail>("MAIL FROM:<j\xc3\xb6rg@b\xc3\xbc.example> SMTPUTF8").from.utf8);
    EXPECT_EQ(error_of("MAIL FROM:<j\xc3\xb6rg@x.example>"), Error::address_not_ascii);
    EXPECT_TRUE(parsed<Rcpt>("RCPT TO:<j\xc3\xb6rg@x.example>")
                    .to.utf8); // the session knows what MAIL said
}

TEST(CommandParser, RefusesMalformedUtf8) {
    for (const std::string& bytes : std::vector<std::string>{
             "\xff", "\xc3", "\xc0\xaf", "\xed\xa0\x80", "\xf5\x80\x80\x80", "\xe0\x80\x80",
             "\xf0\x80\x80\x80", "\xf4\x90\x80\x80", "\x80", "\xc3\xc3"}) {
        EXPECT_FALSE(is_utf8(bytes));
        EXPECT_EQ(error_of("MAIL FROM:<a" + bytes + "@x.example> SMTPUTF8"), Error::bad_sender);
        EXPECT_EQ(error_of("MAIL FROM:<a@x" + bytes + ".example> SMTPUTF8"), Error::bad_sender);
    }
    EXPECT_TRUE(is_utf8("a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"));
}

// Parameters.

TEST(CommandParser, ReadsAllMailParameters) {
    const Mail mail = parsed<Mail>(
        "MAIL FROM:<a@b.example> SIZE=12345 BODY=8BITMIME SMTPUTF8 AUTH=<> RET=HDRS ENVID=QQ+2B1");
    EXPECT_EQ(mail.size, 12345U);
    EXPECT_EQ(mail.body, queue::BodyKind::eight_bit_mime);
    EXPECT_TRUE(mail.smtputf8);
    EXPECT_EQ(mail.auth, "<>");
    EXPECT_EQ(mail.dsn_return, queue::DsnReturn::headers);
    EXPECT_EQ(mail.envid, "QQ+2B1");
    EXPECT_TRUE(mail.extended);
    EXPECT_FALSE(parsed<Mail>("MAIL FROM:<a@b.example>").extended);
}

TEST(CommandParser, ReadsParameterValuesInAnyCase) {
    EXPECT_EQ(parsed<Mail>("MAIL FROM:<> body=binarymime ret=full").body,
              queue::BodyKind::binary_mime);
    EXPECT_EQ(parsed<Mail>("MAIL FROM:<> body=7bit ret=full").dsn_return, queue::DsnReturn::full);
    EXPECT_EQ(parsed<Rcpt>("RCPT TO:<a@b.example> notify=success,Delay").notify,
              queue::notify_success | queue::notify_delay);
}

TEST(CommandParser, SaturatesAHugeSize) {
    EXPECT_EQ(parsed<Mail>("MAIL FROM:<> SIZE=99999999999999999999").size, UINT64_MAX);
    EXPECT_EQ(parsed<Mail>("MAIL FROM:<> SIZE=18446744073709551615").size, UINT64_MAX);
    EXPECT_EQ(parsed<Mail>("MAIL FROM:<> SIZE=18446744073709551614").size, UINT64_MAX - 1);
    EXPECT_EQ(parsed<Mail>("MAIL FROM:<> SIZE=0").size, 0U);
    EXPECT_EQ(error_of("MAIL FROM:<> SIZE=999999999999999999999"), Error::bad_parameter);
}

TEST(CommandParser, RefusesBadMailParameters) {
    for (const char* parameter :
         {"SIZE",   "SIZE=",      "SIZE=-1",      "SIZE=1k",       "SIZE=0x10", "BODY",
          "BODY=",  "BODY=9BIT",  "SMTPUTF8=yes", "RET",           "RET=ALL",   "ENVID",
          "ENVID=", "ENVID=a+zz", "ENVID=a+2",    "ENVID=a+0D+0A", "ENVID=a=b", "AUTH",
          "AUTH=",  "AUTH=a+zz",  "=1",           "-X=1"}) {
        EXPECT_EQ(error_of(std::string{"MAIL FROM:<a@b.example> "} + parameter),
                  Error::bad_parameter)
            << parameter;
    }
    EXPECT_EQ(error_of("MAIL FROM:<> ENVID=" + std::string(101, 'e')), Error::bad_parameter);
    EXPECT_EQ(parsed<Mail>("MAIL FROM:<> ENVID=" + std::string(100, 'e')).envid.size(), 100U);
    EXPECT_EQ(error_of("MAIL FROM:<> AUTH=" + std::string(501, 'e')), Error::bad_parameter);
}

TEST(CommandParser, RefusesUnknownAndRepeatedParameters) {
    EXPECT_EQ(error_of("MAIL FROM:<> XYZZY"), Error::unknown_parameter);
    EXPECT_EQ(error_of("MAIL FROM:<> MT-PRIORITY=3"), Error::unknown_parameter);
    EXPECT_EQ(error_of("MAIL FROM:<> NOTIFY=NEVER"), Error::unknown_parameter);
    EXPECT_EQ(error_of("RCPT TO:<a@b.example> SIZE=1"), Error::unknown_parameter);
    EXPECT_EQ(error_of("MAIL FROM:<> SIZE=1 SIZE=1"), Error::repeated_parameter);
    EXPECT_EQ(error_of("MAIL FROM:<> BODY=7BIT BODY=8BITMIME"), Error::repeated_parameter);
    EXPECT_EQ(error_of("RCPT TO:<a@b.example> NOTIFY=NEVER NOTIFY=DELAY"),
              Error::repeated_parameter);
    EXPECT_EQ(error_of("RCPT TO:<a@b.example> ORCPT=rfc822;a ORCPT=rfc822;b"),
              Error::repeated_parameter);
    EXPECT_EQ(reply_to(Error::unknown_parameter).code, 555);
}

TEST(CommandParser, ReadsNotify) {
    const auto notify = [](const std::string& value) {
        return parsed<Rcpt>("RCPT TO:<a@b.example> NOTIFY=" + value).notify;
    };
    EXPECT_EQ(notify("NEVER"), queue::notify_never);
    EXPECT_EQ(notify("SUCCESS"), queue::notify_success);
    EXPECT_EQ(notify("SUCCESS,FAILURE,DELAY"),
              queue::notify_success | queue::notify_failure | queue::notify_delay);
    EXPECT_EQ(parsed<Rcpt>("RCPT TO:<a@b.example>").notify, queue::notify_absent);
    for (const char* value :
         {"", "=", "=NEVER,DELAY", "=SUCCESS,", "=,SUCCESS", "=ALWAYS", "=SUCCESS;DELAY"}) {
        EXPECT_EQ(error_of(std::string{"RCPT TO:<a@b.example> NOTIFY"} + value),
                  Error::bad_parameter)
            << value;
    }
}

TEST(CommandParser, ReadsOriginalRecipients) {
    const auto orcpt = [](const std::string& value) {
        return std::string{parsed<Rcpt>("RCPT TO:<a@b.example> ORCPT=" + value).orcpt};
    };
    EXPECT_EQ(orcpt("rfc822;user+2Btag@x.example"), "rfc822;user+2Btag@x.example");
    EXPECT_EQ(orcpt("x400;anything"), "x400;anything");
    EXPECT_EQ(orcpt("utf-8;j\\x{F6}rg@x.example"), "utf-8;j\\x{F6}rg@x.example");
    EXPECT_EQ(orcpt("UTF-8;j\xc3\xb6rg@x.example"), "UTF-8;j\xc3\xb6rg@x.example");
    for (const std::string& value : std::vector<std::string>{
             "", "=", "=rfc822", "=;a@b", "=rfc822;", "=rfc822;a=b", "=rfc822;a+0A", "=rfc822;a+gg",
             "=rf c;a", "=rfc822;j\xc3\xb6rg@x", "=utf-8;\\x{0A}", "=utf-8;\\x{D800}",
             "=utf-8;\\x{110000}", "=utf-8;\\y", "=utf-8;\xff", "=utf-8;a+2B",
             "=rfc822;" + std::string(500, 'a')}) {
        EXPECT_FALSE(parse_command("RCPT TO:<a@b.example> ORCPT" + value).has_value()) << value;
    }
}

TEST(CommandParser, ReadsBdat) {
    EXPECT_EQ(parsed<Bdat>("BDAT 86").bytes, 86U);
    EXPECT_FALSE(parsed<Bdat>("BDAT 86").last);
    EXPECT_TRUE(parsed<Bdat>("bdat 0 last").last);
    for (const char* line :
         {"BDAT", "BDAT x", "BDAT -1", "BDAT 1 FIRST", "BDAT 1 LAST 2", "BDAT LAST", "BDAT 1.5"}) {
        EXPECT_EQ(error_of(line), Error::bad_arguments) << line;
        EXPECT_TRUE(has_verb(line, "bdat"));
    }
    EXPECT_FALSE(has_verb("BDATA 1", "BDAT"));
}

TEST(CommandParser, ReadsAuth) {
    EXPECT_EQ(parsed<Auth>("AUTH PLAIN").initial_response, std::nullopt);
    EXPECT_EQ(parsed<Auth>("AUTH plain AGEAYg==").initial_response, "AGEAYg==");
    EXPECT_EQ(parsed<Auth>("AUTH LOGIN =").initial_response, "");
    EXPECT_EQ(error_of("AUTH"), Error::bad_arguments);
    EXPECT_EQ(error_of("AUTH PLAIN a b"), Error::bad_arguments);
}

TEST(ServerReply, IsCutAndCleanedForTheWire) {
    std::string out;
    append_reply(out, {550, {5, 7, 1}, "no\r\n250 ok"});
    EXPECT_EQ(out, "550 5.7.1 no??250 ok\r\n");
    out.clear();
    const std::string text(2000, 't');
    append_reply(out, {550, {5, 7, 1}, text});
    EXPECT_EQ(out.size(), reply_line_bytes_max);
    EXPECT_TRUE(out.ends_with("t\r\n"));
}

} // namespace
} // namespace dataplane::smtp
