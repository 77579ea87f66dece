// Goal: conformance. Method: a table of dialogues, each played three times with other
// fragmentation. The client's address is on the relay's list unless the dialogue says otherwise;
// "ehlo" dialogues begin after EHLO.
#include "tests/dataplane/smtp/server_harness.h"

#include <gtest/gtest.h>
#include <ostream>
#include <string>

namespace tests {
namespace {

using dataplane::policy::ListenerKind;

enum class Begin : std::uint8_t { greeting, helo, ehlo, mail, rcpt };

struct Dialogue {
    const char* name;
    Begin begin;
    const char* script;
    ListenerKind listener = ListenerKind::relay;
    bool tls = false;
    bool plain_auth = false;
    std::string_view client = ServerHarness::listed_client;
};

[[maybe_unused]] void PrintTo(const Dialogue& dialogue, std::ostream* out) {
    *out << dialogue.name;
}

class DialogueTest : public testing::TestWithParam<Dialogue> {};

TEST_P(DialogueTest, GoesAsWritten) {
    const Dialogue& dialogue = GetParam();
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        ServerHarness world{{.seed = seed, .tls = dialogue.tls}};
        world.policy.limits.message_bytes_max = 1000;
        for (auto& listener : world.policy.listeners)
            listener.allow_plain_auth = dialogue.plain_auth;
        world.publish_policy();
        auto client = world.connect(dialogue.listener, dialogue.client);
        if (dialogue.begin == Begin::helo) {
            ASSERT_EQ(client.ask("HELO client.example"), "250 relay.example");
        } else if (dialogue.begin != Begin::greeting) {
            ASSERT_TRUE(client.ask("EHLO client.example").starts_with("250-relay.example|"));
        }
        if (dialogue.begin >= Begin::mail) {
            ASSERT_EQ(client.ask("MAIL FROM:<a@b.example>"), "250 2.1.0 Sender ok");
        }
        if (dialogue.begin >= Begin::rcpt) {
            ASSERT_EQ(client.ask("RCPT TO:<c@d.example>"), "250 2.1.5 Recipient ok");
        }
        world.play(client, dialogue.script);
        if (HasFatalFailure()) return;
    }
}

std::string name_of(const testing::TestParamInfo<Dialogue>& info) {
    return info.param.name;
}

const Dialogue greetings[] = {
    {"HeloAnswersHostNameAlone", Begin::greeting,
     "C: HELO x.example\nS: 250 relay.example\n-: PIPELINING"},
    {"EhloListsExtensions", Begin::greeting,
     "C: EHLO x.example\nS: 250-relay.example|\n+: 250-PIPELINING|\n+: 250-SIZE 1000|\n+: "
     "250-8BITMIME|\n+: 250-SMTPUTF8|\n"
     "+: 250-ENHANCEDSTATUSCODES|\n+: 250-CHUNKING|\n+: 250-BINARYMIME|\n+: 250 DSN\n-: "
     "STARTTLS\n-: AUTH"},
    {"EhloOffersStartTlsWhenThereIsTls", Begin::greeting,
     "C: EHLO x.example\nS: 250-\n+: |250-STARTTLS|\n-: AUTH", ListenerKind::relay, true},
    {"EhloOffersAuthInPlainTextOnlyWhenAllowed", Begin::greeting,
     "C: EHLO x.example\nS: 250-\n+: |250-AUTH PLAIN LOGIN|", ListenerKind::submission, false,
     true},
    {"EhloWithoutNameIsRefused", Begin::greeting, "C: EHLO\nS: 501 5.5.4"},
    {"HeloWithoutNameIsRefused", Begin::greeting, "C: HELO\nS: 501 5.5.4"},
    {"EhloWithForgedHeaderCharactersIsRefused", Begin::greeting, "C: EHLO a)(b\nS: 501 5.5.4"},
    {"EhloWithAddressLiteral", Begin::greeting, "C: EHLO [192.0.2.1]\nS: 250-"},
    {"EhloTwiceIsFine", Begin::ehlo, "C: EHLO again.example\nS: 250-"},
    {"EhloResetsTheTransaction", Begin::rcpt,
     "C: EHLO again.example\nS: 250-\nC: DATA\nS: 503 5.5.1\nC: MAIL FROM:<>\nS: 250"},
    {"BadEhloLeavesTheTransaction", Begin::rcpt, "C: EHLO\nS: 501\nC: DATA\nS: 354\nC: .\nS: 250"},
    {"QuitEnds", Begin::greeting, "C: QUIT\nS: 221 2.0.0\nE:"},
    {"QuitWithArgumentGoesOn", Begin::greeting, "C: QUIT now\nS: 501 5.5.4\nC: NOOP\nS: 250"},
    {"NoopBeforeEhlo", Begin::greeting, "C: NOOP\nS: 250 2.0.0\nC: NOOP with words\nS: 250 2.0.0"},
    {"RsetBeforeEhlo", Begin::greeting, "C: RSET\nS: 250 2.0.0"},
    {"VrfyTellsNothing", Begin::ehlo, "C: VRFY root\nS: 252 2.5.2\nC: VRFY\nS: 501"},
    {"ExpnIsNotThere", Begin::ehlo, "C: EXPN staff\nS: 502 5.5.1"},
    {"HelpHelps", Begin::ehlo, "C: HELP\nS: 214 2.0.0\nC: HELP DATA\nS: 214"},
    {"UnknownCommand", Begin::ehlo, "C: XYZZY\nS: 500 5.5.2\nC: NOOP\nS: 250"},
    {"EmptyLine", Begin::ehlo, "C: \nS: 500 5.5.2\nC: NOOP\nS: 250"},
    {"HttpRequest", Begin::greeting, "C: POST / HTTP/1.1\nS: 500"},
    {"TurnIsGone", Begin::ehlo, "C: TURN\nS: 500"},
    {"NulInCommand", Begin::ehlo, "C: NO\\0OP\nS: 500 5.5.2\nC: NOOP\nS: 250"},
    {"TabIsNoSeparator", Begin::ehlo, "C: MAIL\\x09FROM:<a@b.example>\nS: 500 5.5.2"},
    {"BareLfEndsNoCommand", Begin::ehlo, "c: NOOP\\n\nS: 500 5.5.2\nC: NOOP\nS: 250"},
    {"BareCrInCommand", Begin::ehlo, "C: NOOP\\rMAIL FROM:<a@b.example>\nS: 500 5.5.2"},
    {"CommandsInAnyCase", Begin::greeting,
     "C: eHlO x\nS: 250-\nC: mail From:<a@b.example>\nS: 250\nC: rcpt To:<c@d.example>\nS: 250\nC: "
     "dAtA\nS: 354"},
};
INSTANTIATE_TEST_SUITE_P(Greeting, DialogueTest, testing::ValuesIn(greetings), name_of);

const Dialogue sequences[] = {
    {"MailBeforeEhlo", Begin::greeting, "C: MAIL FROM:<a@b.example>\nS: 503 5.5.1"},
    {"RcptBeforeEhlo", Begin::greeting, "C: RCPT TO:<a@b.example>\nS: 503 5.5.1"},
    {"DataBeforeEhlo", Begin::greeting, "C: DATA\nS: 503 5.5.1"},
    {"BdatBeforeEhloIsSwallowed", Begin::greeting,
     "C: BDAT 6\nc: QUIT\\r\\n\nS: 503 5.5.1\nC: NOOP\nS: 250"},
    {"AuthBeforeEhlo", Begin::greeting, "C: AUTH PLAIN\nS: 503 5.5.1", ListenerKind::submission,
     false, true},
    {"AuthAfterHelo", Begin::helo, "C: AUTH PLAIN\nS: 503 5.5.1", ListenerKind::submission, false,
     true},
    {"RcptBeforeMail", Begin::ehlo, "C: RCPT TO:<a@b.example>\nS: 503 5.5.1"},
    {"DataBeforeMail", Begin::ehlo, "C: DATA\nS: 503 5.5.1\nC: NOOP\nS: 250"},
    {"DataBeforeRcpt", Begin::mail, "C: DATA\nS: 503 5.5.1 RCPT first"},
    {"DataAfterRefusedRcpts", Begin::mail,
     "C: RCPT TO:<bad>\nS: 501\nC: RCPT TO:<j\\xc3\\xb6rg@d.example>\nS: 553 5.6.7\nC: DATA\nS: "
     "554 5.5.1"},
    {"MailTwice", Begin::mail, "C: MAIL FROM:<x@y.example>\nS: 503 5.5.1"},
    {"MailAfterRcpt", Begin::rcpt, "C: MAIL FROM:<x@y.example>\nS: 503 5.5.1\nC: DATA\nS: 354"},
    {"RsetForgetsMail", Begin::rcpt,
     "C: RSET\nS: 250\nC: RCPT TO:<x@y.example>\nS: 503\nC: MAIL FROM:<x@y.example>\nS: 250"},
    {"HeloResetsTheTransaction", Begin::rcpt, "C: HELO x\nS: 250\nC: DATA\nS: 503"},
    {"HeloSessionTakesMail", Begin::helo,
     "C: MAIL FROM:<a@b.example>\nS: 250\nC: RCPT TO:<c@d.example>\nS: 250\nC: DATA\nS: 354\nC: "
     ".\nS: 250 2.0.0 Ok: queued as\nQ: 1"},
    {"HeloSessionKnowsNoParameters", Begin::helo,
     "C: MAIL FROM:<a@b.example> SIZE=1\nS: 555 5.5.4\nC: MAIL FROM:<a@b.example>\nS: 250\nC: RCPT "
     "TO:<c@d.example> NOTIFY=NEVER\nS: 555"},
    {"HeloSessionHasNoChunks", Begin::helo,
     "C: MAIL FROM:<a@b.example>\nS: 250\nC: RCPT TO:<c@d.example>\nS: 250\nC: BDAT 2 LAST\nc: "
     "\\r\\n\nS: 503\nC: NOOP\nS: 250\nQ: 0"},
    {"TwoMessagesInOneSession", Begin::rcpt,
     "C: DATA\nS: 354\nC: .\nS: 250\nC: RCPT TO:<x@y.example>\nS: 503\nC: MAIL FROM:<>\nS: 250\nC: "
     "RCPT TO:<x@y.example>\nS: 250\nC: DATA\nS: 354\nC: second\nC: .\nS: 250\nQ: 2"},
    {"StartTlsNotOffered", Begin::ehlo, "C: STARTTLS\nS: 502 5.5.1"},
    {"NoopVrfyHelpLeaveTheTransaction", Begin::rcpt,
     "C: NOOP\nS: 250\nC: VRFY x\nS: 252\nC: HELP\nS: 214\nC: DATA\nS: 354\nC: .\nS: 250\nQ: 1"},
    {"DataWithArgument", Begin::rcpt, "C: DATA x\nS: 501 5.5.4\nC: DATA\nS: 354"},
    {"RsetWithArgument", Begin::rcpt, "C: RSET x\nS: 501 5.5.4\nC: DATA\nS: 354"},
};
INSTANTIATE_TEST_SUITE_P(Sequence, DialogueTest, testing::ValuesIn(sequences), name_of);

const Dialogue addresses[] = {
    {"NullSender", Begin::ehlo, "C: MAIL FROM:<>\nS: 250 2.1.0"},
    {"NullRecipient", Begin::mail, "C: RCPT TO:<>\nS: 501 5.1.3"},
    {"SenderWithoutDomain", Begin::ehlo, "C: MAIL FROM:<root>\nS: 501 5.1.7"},
    {"RecipientWithoutDomain", Begin::mail, "C: RCPT TO:<root>\nS: 501 5.1.3"},
    {"PostmasterWithoutDomain", Begin::mail, "C: RCPT TO:<Postmaster>\nS: 250 2.1.5"},
    {"SenderWithoutBrackets", Begin::ehlo, "C: MAIL FROM: a@b.example\nS: 501 5.5.4"},
    {"RecipientWithoutBrackets", Begin::mail, "C: RCPT TO:c@d.example\nS: 501 5.5.4"},
    {"BlankBehindTheColon", Begin::ehlo,
     "C: MAIL FROM: <a@b.example>\nS: 250\nC: RCPT TO: <c@d.example>\nS: 250"},
    {"QuotedLocalPart", Begin::ehlo,
     "C: MAIL FROM:<\"a b\"@c.example>\nS: 250\nC: RCPT TO:<\"@> \\\\\"\"@c.example>\nS: 250"},
    {"AddressLiteral", Begin::mail,
     "C: RCPT TO:<c@[192.0.2.4]>\nS: 250\nC: RCPT TO:<c@[IPv6:2001:db8::4]>\nS: 250\nC: RCPT "
     "TO:<c@[192.0.2.400]>\nS: 501"},
    {"SourceRoute", Begin::mail,
     "C: RCPT TO:<@one.example,@two.example:c@d.example>\nS: 250\nC: DATA\nS: 354\nC: .\nS: "
     "250\nQ: 1"},
    {"PathTooLong", Begin::mail,
     "C: RCPT TO:<aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@d.example>\nS: "
     "501 5.1.3"},
    {"Utf8SenderNeedsSmtputf8", Begin::ehlo,
     "C: MAIL FROM:<j\\xc3\\xb6rg@b.example>\nS: 553 5.6.7\nC: MAIL FROM:<j\\xc3\\xb6rg@b.example> "
     "SMTPUTF8\nS: 250"},
    {"Utf8RecipientNeedsSmtputf8", Begin::mail,
     "C: RCPT TO:<j\\xc3\\xb6rg@d.example>\nS: 553 5.6.7"},
    {"Utf8RecipientWithSmtputf8", Begin::ehlo,
     "C: MAIL FROM:<a@b.example> SMTPUTF8\nS: 250\nC: RCPT "
     "TO:<j\\xc3\\xb6rg@d\\xc3\\xa9.example>\nS: 250"},
    {"MalformedUtf8", Begin::ehlo, "C: MAIL FROM:<j\\xf6rg@b.example> SMTPUTF8\nS: 501 5.1.7"},
    {"NulInAddress", Begin::mail, "C: RCPT TO:<c\\0@d.example>\nS: 500 5.5.2"},
    {"TwoAddressesInOneRcpt", Begin::mail, "C: RCPT TO:<c@d.example> <e@f.example>\nS: 501"},
};
INSTANTIATE_TEST_SUITE_P(Address, DialogueTest, testing::ValuesIn(addresses), name_of);

const Dialogue parameters[] = {
    {"SizeBelowLimit", Begin::ehlo, "C: MAIL FROM:<a@b.example> SIZE=1000\nS: 250"},
    {"SizeAboveLimit", Begin::ehlo,
     "C: MAIL FROM:<a@b.example> SIZE=1001\nS: 552 5.3.4\nC: MAIL FROM:<a@b.example> SIZE=1\nS: "
     "250"},
    {"SizeBeyondAnyNumber", Begin::ehlo,
     "C: MAIL FROM:<a@b.example> SIZE=99999999999999999999\nS: 552 5.3.4"},
    {"SizeMalformed", Begin::ehlo,
     "C: MAIL FROM:<a@b.example> SIZE=big\nS: 501 5.5.4\nC: MAIL FROM:<a@b.example> SIZE=\nS: "
     "501\nC: MAIL FROM:<a@b.example> SIZE\nS: 501"},
    {"Body7Bit", Begin::ehlo, "C: MAIL FROM:<a@b.example> BODY=7BIT\nS: 250"},
    {"Body8BitMime", Begin::ehlo, "C: MAIL FROM:<a@b.example> BODY=8BITMIME\nS: 250"},
    {"BodyUnknown", Begin::ehlo, "C: MAIL FROM:<a@b.example> BODY=16BIT\nS: 501 5.5.4"},
    {"BinaryMimeNeedsBdat", Begin::ehlo,
     "C: MAIL FROM:<a@b.example> BODY=BINARYMIME\nS: 250\nC: RCPT TO:<c@d.example>\nS: 250\nC: "
     "DATA\nS: 503 5.5.1\nC: BDAT 3 LAST\nc: a\\nb\nS: 250\nQ: 1"},
    {"Smtputf8WithValue", Begin::ehlo, "C: MAIL FROM:<a@b.example> SMTPUTF8=1\nS: 501 5.5.4"},
    {"MailAuth", Begin::ehlo,
     "C: MAIL FROM:<a@b.example> AUTH=<>\nS: 250\nC: RSET\nS: 250\nC: MAIL FROM:<a@b.example> "
     "AUTH=e+3Dmc2@x.example\nS: 250\nC: RSET\nS: 250\nC: MAIL FROM:<> AUTH=a+zz\nS: 501"},
    {"Ret", Begin::ehlo,
     "C: MAIL FROM:<> RET=FULL\nS: 250\nC: RSET\nS: 250\nC: MAIL FROM:<> RET=hdrs\nS: 250\nC: "
     "RSET\nS: 250\nC: MAIL FROM:<> RET=BODY\nS: 501 5.5.4"},
    {"Envid", Begin::ehlo,
     "C: MAIL FROM:<> ENVID=QQ314159\nS: 250\nC: RSET\nS: 250\nC: MAIL FROM:<> ENVID=a+0D+0Ab\nS: "
     "501\nC: MAIL FROM:<> ENVID=a=b\nS: 501"},
    {"Notify", Begin::mail,
     "C: RCPT TO:<c@d.example> NOTIFY=SUCCESS,FAILURE,DELAY\nS: 250\nC: RCPT TO:<c@d.example> "
     "NOTIFY=NEVER\nS: 250\nC: RCPT TO:<c@d.example> NOTIFY=NEVER,DELAY\nS: 501 5.5.4\nC: RCPT "
     "TO:<c@d.example> NOTIFY=\nS: 501\nC: RCPT TO:<c@d.example> NOTIFY=SOMETIMES\nS: 501"},
    {"Orcpt", Begin::mail,
     "C: RCPT TO:<c@d.example> ORCPT=rfc822;c+2Bx@d.example\nS: 250\nC: RCPT TO:<c@d.example> "
     "ORCPT=utf-8;\\xc3\\xb6@d.example\nS: 250\nC: RCPT TO:<c@d.example> ORCPT=c@d.example\nS: "
     "501\nC: RCPT TO:<c@d.example> ORCPT=rfc822;a+0A\nS: 501"},
    {"UnknownMailParameter", Begin::ehlo, "C: MAIL FROM:<> FOO=bar\nS: 555 5.5.4"},
    {"UnknownRcptParameter", Begin::mail, "C: RCPT TO:<c@d.example> FOO\nS: 555 5.5.4"},
    {"ParameterOfTheOtherCommand", Begin::mail,
     "C: RCPT TO:<c@d.example> SIZE=1\nS: 555\nC: RSET\nS: 250\nC: MAIL FROM:<> NOTIFY=NEVER\nS: "
     "555"},
    {"ParameterTwice", Begin::ehlo, "C: MAIL FROM:<> SIZE=1 SIZE=2\nS: 501 5.5.4"},
    {"ParameterWithoutKeyword", Begin::ehlo, "C: MAIL FROM:<> =1\nS: 501"},
    {"ParametersInAnyOrderAndCase", Begin::ehlo,
     "C: MAIL FROM:<a@b.example> envid=x body=8bitmime ret=Full size=9 smtputf8\nS: 250"},
};
INSTANTIATE_TEST_SUITE_P(Parameter, DialogueTest, testing::ValuesIn(parameters), name_of);

const Dialogue pipelines[] = {
    {"WholeEnvelopeAtOnce", Begin::ehlo,
     "c: MAIL FROM:<a@b.example>\\r\\nRCPT TO:<c@d.example>\\r\\nRCPT "
     "TO:<e@f.example>\\r\\nDATA\\r\\n\nS: 250 2.1.0\nS: 250 2.1.5\nS: 250 2.1.5\nS: 354\nC: .\nS: "
     "250\nQ: 1"},
    {"EverythingAtOnceWithQuit", Begin::greeting,
     "c: EHLO x\\r\\nMAIL FROM:<>\\r\\nRCPT "
     "TO:<c@d.example>\\r\\nDATA\\r\\nhi\\r\\n.\\r\\nQUIT\\r\\n\nS: 250-\nS: 250\nS: 250\nS: "
     "354\nS: 250\nS: 221\nE:\nQ: 1"},
    {"TwoMessagesAtOnce", Begin::ehlo,
     "c: MAIL FROM:<>\\r\\nRCPT TO:<c@d.example>\\r\\nDATA\\r\\n1\\r\\n.\\r\\nMAIL "
     "FROM:<>\\r\\nRCPT TO:<c@d.example>\\r\\nDATA\\r\\n2\\r\\n.\\r\\n\n"
     "S: 250\nS: 250\nS: 354\nS: 250\nS: 250\nS: 250\nS: 354\nS: 250\nQ: 2"},
    {"RefusedRcptsThenData", Begin::ehlo,
     "c: MAIL FROM:<>\\r\\nRCPT TO:<bad>\\r\\nDATA\\r\\nRSET\\r\\n\nS: 250\nS: 501\nS: 554 "
     "5.5.1\nS: 250 2.0.0\nQ: 0"},
    {"OneGoodRcptAmongBadOnes", Begin::ehlo,
     "c: MAIL FROM:<>\\r\\nRCPT TO:<bad>\\r\\nRCPT TO:<c@d.example>\\r\\nRCPT "
     "TO:<>\\r\\nDATA\\r\\n\nS: 250\nS: 501\nS: 250\nS: 501\nS: 354\nC: .\nS: 250\nQ: 1"},
    {"RefusedMailThenRcptAndData", Begin::ehlo,
     "c: MAIL FROM:<bad>\\r\\nRCPT TO:<c@d.example>\\r\\nDATA\\r\\nNOOP\\r\\n\nS: 501\nS: 503\nS: "
     "503\nS: 250\nQ: 0"},
    {"CommandsBehindTheFinalDot", Begin::rcpt,
     "C: DATA\nS: 354\nc: hi\\r\\n.\\r\\nNOOP\\r\\nRSET\\r\\n\nS: 250 2.0.0 Ok: queued\nS: 250 "
     "2.0.0 Ok\nS: 250\nQ: 1"},
    {"ChunksPipelined", Begin::ehlo,
     "c: MAIL FROM:<>\\r\\nRCPT TO:<c@d.example>\\r\\nBDAT 4\\r\\nhi\\r\\nBDAT 5 "
     "LAST\\r\\nyou\\r\\nNOOP\\r\\n\nS: 250\nS: 250\nS: 250\nS: 250 2.0.0 Ok: queued\nS: 250\nQ: "
     "1"},
};
INSTANTIATE_TEST_SUITE_P(Pipelining, DialogueTest, testing::ValuesIn(pipelines), name_of);

const Dialogue data[] = {
    {"EmptyMessage", Begin::rcpt, "C: DATA\nS: 354\nC: .\nS: 250 2.0.0 Ok: queued as 0\nQ: 1"},
    {"MessageOfExactlyTheLimit", Begin::rcpt,
     "C: DATA\nS: 354\nC: Subject: x\nC: \nC: 0\nC: .\nS: 250"},
    {"DotsAreData", Begin::rcpt, "C: DATA\nS: 354\nC: ..\nC: . \nC: .x\nC: .\nS: 250\nQ: 1"},
    {"LfDotLf", Begin::rcpt,
     "C: DATA\nS: 354\nc: a\\n.\\nMAIL FROM:<evil@x>\\r\\n.\\r\\n\nS: 550 5.6.0\nC: NOOP\nS: "
     "250\nQ: 0"},
    {"LfDotCrlf", Begin::rcpt,
     "C: DATA\nS: 354\nc: a\\n.\\r\\nMAIL FROM:<evil@x>\\r\\n.\\r\\n\nS: 550 5.6.0\nC: NOOP\nS: "
     "250\nQ: 0"},
    {"CrlfDotLf", Begin::rcpt,
     "C: DATA\nS: 354\nc: a\\r\\n.\\nMAIL FROM:<evil@x>\\r\\n.\\r\\n\nS: 550 5.6.0\nC: NOOP\nS: "
     "250\nQ: 0"},
    {"CrDotCr", Begin::rcpt,
     "C: DATA\nS: 354\nc: a\\r.\\rMAIL FROM:<evil@x>\\r\\n.\\r\\n\nS: 550 5.6.0\nC: NOOP\nS: "
     "250\nQ: 0"},
    {"CrDotCrlf", Begin::rcpt,
     "C: DATA\nS: 354\nc: a\\r.\\r\\nMAIL FROM:<evil@x>\\r\\n.\\r\\n\nS: 550 5.6.0\nC: NOOP\nS: "
     "250\nQ: 0"},
    {"CrlfDotCr", Begin::rcpt,
     "C: DATA\nS: 354\nc: a\\r\\n.\\rMAIL FROM:<evil@x>\\r\\n.\\r\\n\nS: 550 5.6.0\nC: NOOP\nS: "
     "250\nQ: 0"},
    {"CrCrlfDotLf", Begin::rcpt,
     "C: DATA\nS: 354\nc: a\\r\\r\\n.\\nMAIL FROM:<evil@x>\\r\\n.\\r\\n\nS: 550 5.6.0\nC: NOOP\nS: "
     "250\nQ: 0"},
    {"LfLfDotCrlf", Begin::rcpt,
     "C: DATA\nS: 354\nc: a\\n\\n.\\r\\nMAIL FROM:<evil@x>\\r\\n.\\r\\n\nS: 550 5.6.0\nC: NOOP\nS: "
     "250\nQ: 0"},
    {"NulDotCrlf", Begin::rcpt,
     "C: DATA\nS: 354\nc: a\\r\\n\\0.\\r\\nMAIL FROM:<evil@x>\\r\\n.\\r\\n\nS: 250\nQ: 1"},
    {"BareLfInTheMiddle", Begin::rcpt,
     "C: DATA\nS: 354\nc: a\\nb\\r\\n.\\r\\n\nS: 550 5.6.0\n+: bare\nQ: 0"},
    {"BareCrAtTheEndOfALine", Begin::rcpt,
     "C: DATA\nS: 354\nc: a\\r\\r\\n.\\r\\n\nS: 550 5.6.0\nQ: 0"},
    {"RefusedMailIsFollowedByAGoodOne", Begin::rcpt,
     "C: DATA\nS: 354\nc: a\\nb\\r\\n.\\r\\n\nS: 550\nC: MAIL FROM:<>\nS: 250\nC: RCPT "
     "TO:<c@d.example>\nS: 250\nC: DATA\nS: 354\nC: ok\nC: .\nS: 250\nQ: 1"},
};
INSTANTIATE_TEST_SUITE_P(Data, DialogueTest, testing::ValuesIn(data), name_of);

const Dialogue chunks[] = {
    {"OneChunk", Begin::rcpt, "C: BDAT 4 LAST\nc: hi\\r\\n\nS: 250 2.0.0 Ok: queued as\nQ: 1"},
    {"ThreeChunks", Begin::rcpt,
     "C: BDAT 1\nc: h\nS: 250\nC: BDAT 2\nc: i\\r\nS: 250\nC: BDAT 1 LAST\nc: \\n\nS: 250 2.0.0 "
     "Ok: queued as\nQ: 1"},
    {"EmptyLastChunk", Begin::rcpt,
     "C: BDAT 4\nc: hi\\r\\n\nS: 250\nC: BDAT 0 LAST\nS: 250 2.0.0 Ok: queued as\nQ: 1"},
    {"EmptyMessageInChunks", Begin::rcpt, "C: BDAT 0 LAST\nS: 250 2.0.0 Ok: queued as\nQ: 1"},
    {"ADotIsNoEnd", Begin::rcpt,
     "C: BDAT 9 LAST\nc: a\\r\\n.\\r\\nb\\r\\n\nS: 250\nC: NOOP\nS: 250\nQ: 1"},
    {"CommandsInsideAChunkAreData", Begin::rcpt,
     "C: BDAT 12 LAST\nc: QUIT\\r\\nRSET\\r\\n\nS: 250\nC: NOOP\nS: 250\nQ: 1"},
    {"DataBetweenChunks", Begin::rcpt,
     "C: BDAT 1\nc: h\nS: 250\nC: DATA\nS: 503 5.5.1\nC: BDAT 0 LAST\nS: 250\nQ: 1"},
    {"RcptBetweenChunks", Begin::rcpt,
     "C: BDAT 1\nc: h\nS: 250\nC: RCPT TO:<x@y.example>\nS: 503 5.5.1"},
    {"MailBetweenChunks", Begin::rcpt,
     "C: BDAT 1\nc: h\nS: 250\nC: MAIL FROM:<x@y.example>\nS: 503 5.5.1"},
    {"NoopBetweenChunks", Begin::rcpt,
     "C: BDAT 1\nc: h\nS: 250\nC: NOOP\nS: 250\nC: BDAT 1 LAST\nc: i\nS: 250\nQ: 1"},
    {"RsetBetweenChunks", Begin::rcpt,
     "C: BDAT 1\nc: h\nS: 250\nC: RSET\nS: 250\nC: BDAT 1 LAST\nc: i\nS: 503\nC: NOOP\nS: 250\nQ: "
     "0"},
    {"ChunkBeforeRcpt", Begin::mail,
     "C: BDAT 6 LAST\nc: QUIT\\r\\n\nS: 503 5.5.1 RCPT first\nC: NOOP\nS: 250"},
    {"ChunkAfterRefusedRcpts", Begin::mail,
     "C: RCPT TO:<bad>\nS: 501\nC: BDAT 6 LAST\nc: QUIT\\r\\n\nS: 554 5.5.1\nC: NOOP\nS: 250"},
    {"ChunkBeforeMail", Begin::ehlo,
     "C: BDAT 6 LAST\nc: QUIT\\r\\n\nS: 503 5.5.1\nC: NOOP\nS: 250"},
    {"MalformedChunkSizeEndsTheSession", Begin::rcpt, "C: BDAT 1x\nS: 501 5.5.4\nE:"},
    {"ChunkWithoutSizeEndsTheSession", Begin::rcpt, "C: BDAT\nS: 501 5.5.4\nE:"},
    {"BareLfInChunk", Begin::rcpt, "C: BDAT 3 LAST\nc: a\\nb\nS: 550 5.6.0\nC: NOOP\nS: 250\nQ: 0"},
    {"BareLfInFirstOfTwoChunks", Begin::rcpt,
     "C: BDAT 3\nc: a\\nb\nS: 550 5.6.0\nC: BDAT 1 LAST\nc: c\nS: 550 5.6.0\nC: BDAT 1\nc: d\nS: "
     "503\nQ: 0"},
    {"CrlfAcrossChunks", Begin::rcpt,
     "C: BDAT 2\nc: a\\r\nS: 250\nC: BDAT 1 LAST\nc: \\n\nS: 250\nQ: 1"},
    {"CrAtTheVeryEnd", Begin::rcpt, "C: BDAT 2 LAST\nc: a\\r\nS: 550 5.6.0\nQ: 0"},
};
INSTANTIATE_TEST_SUITE_P(Chunk, DialogueTest, testing::ValuesIn(chunks), name_of);

// "alice" has the password "wonderland".
const Dialogue logins[] = {
    {"PlainWithInitialResponse", Begin::ehlo,
     "A: alice wonderland\nS: 235 2.7.0\nC: MAIL FROM:<a@b.example>\nS: 250",
     ListenerKind::submission, false, true},
    {"PlainWithChallenge", Begin::ehlo,
     "C: AUTH PLAIN\nS: 334 \nC: AGFsaWNlAHdvbmRlcmxhbmQ=\nS: 235 2.7.0", ListenerKind::submission,
     false, true},
    {"PlainWithOwnAuthorizationIdentity", Begin::ehlo,
     "C: AUTH PLAIN YWxpY2UAYWxpY2UAd29uZGVybGFuZA==\nS: 235", ListenerKind::submission, false,
     true},
    {"PlainForSomebodyElse", Begin::ehlo,
     "C: AUTH PLAIN Ym9iAGFsaWNlAHdvbmRlcmxhbmQ=\nS: 501 5.5.2\nC: MAIL FROM:<>\nS: 530 5.7.0",
     ListenerKind::submission, false, true},
    {"Login", Begin::ehlo,
     "C: AUTH LOGIN\nS: 334 VXNlcm5hbWU6\nC: YWxpY2U=\nS: 334 UGFzc3dvcmQ6\nC: "
     "d29uZGVybGFuZA==\nS: 235 2.7.0",
     ListenerKind::submission, false, true},
    {"LoginWithInitialResponse", Begin::ehlo,
     "C: auth login YWxpY2U=\nS: 334 UGFzc3dvcmQ6\nC: d29uZGVybGFuZA==\nS: 235 2.7.0",
     ListenerKind::submission, false, true},
    {"WrongPassword", Begin::ehlo,
     "A: alice guess\nS: 535 5.7.8\nC: MAIL FROM:<>\nS: 530 5.7.0\nA: alice wonderland\nS: 235",
     ListenerKind::submission, false, true},
    {"UnknownUser", Begin::ehlo, "A: mallory wonderland\nS: 535 5.7.8", ListenerKind::submission,
     false, true},
    {"EmptyPassword", Begin::ehlo, "A: alice \nS: 535 5.7.8", ListenerKind::submission, false,
     true},
    {"ThirdFailureEnds", Begin::ehlo,
     "A: alice 1\nS: 535\nA: alice 2\nS: 535\nA: alice 3\nS: 421 4.7.0\nE:",
     ListenerKind::submission, false, true},
    {"CancelledPlain", Begin::ehlo,
     "C: AUTH PLAIN\nS: 334\nC: *\nS: 501 5.7.0\nA: alice wonderland\nS: 235",
     ListenerKind::submission, false, true},
    {"CancelledLoginPassword", Begin::ehlo,
     "C: AUTH LOGIN\nS: 334\nC: YWxpY2U=\nS: 334\nC: *\nS: 501 5.7.0", ListenerKind::submission,
     false, true},
    {"BadBase64", Begin::ehlo,
     "C: AUTH PLAIN !!!!\nS: 501 5.5.2\nC: AUTH LOGIN\nS: 334\nC: abc\nS: 501 5.5.2",
     ListenerKind::submission, false, true},
    {"PlainWithoutNuls", Begin::ehlo, "C: AUTH PLAIN YWxpY2U=\nS: 501 5.5.2",
     ListenerKind::submission, false, true},
    {"EmptyInitialResponse", Begin::ehlo, "C: AUTH PLAIN =\nS: 501 5.5.2", ListenerKind::submission,
     false, true},
    {"UnknownMechanism", Begin::ehlo,
     "C: AUTH CRAM-MD5\nS: 504 5.5.4\nC: AUTH XOAUTH2 dGVzdA==\nS: 504", ListenerKind::submission,
     false, true},
    {"MechanismMissing", Begin::ehlo, "C: AUTH\nS: 501 5.5.4", ListenerKind::submission, false,
     true},
    {"Twice", Begin::ehlo,
     "A: alice wonderland\nS: 235\nA: alice wonderland\nS: 503 5.5.1\nC: EHLO x\nS: 250-\n-: AUTH",
     ListenerKind::submission, false, true},
    {"DuringATransaction", Begin::mail, "A: alice wonderland\nS: 503 5.5.1", ListenerKind::relay,
     false, true},
    {"BeforeTls", Begin::ehlo, "A: alice wonderland\nS: 538 5.7.11\nC: MAIL FROM:<>\nS: 530 5.7.0",
     ListenerKind::submission, true},
    {"BeforeTlsOnARelay", Begin::ehlo, "A: alice wonderland\nS: 538 5.7.11", ListenerKind::relay,
     true},
    {"WithoutAnyTls", Begin::ehlo, "A: alice wonderland\nS: 538 5.7.11", ListenerKind::submission},
    {"NeededOnSubmission", Begin::ehlo,
     "C: MAIL FROM:<a@b.example>\nS: 530 5.7.0 Authentication required", ListenerKind::submission,
     false, true},
    {"NeededOnRelayFromElsewhere", Begin::ehlo,
     "C: MAIL FROM:<a@b.example>\nS: 550 5.7.1\nA: alice wonderland\nS: 235\nC: MAIL "
     "FROM:<a@b.example>\nS: 250",
     ListenerKind::relay, false, true, ServerHarness::other_client},
};
INSTANTIATE_TEST_SUITE_P(Auth, DialogueTest, testing::ValuesIn(logins), name_of);

const Dialogue secured[] = {
    {"SubmissionNeedsTlsFirst", Begin::ehlo, "C: MAIL FROM:<>\nS: 530 5.7.0 Issue a STARTTLS",
     ListenerKind::submission, true},
    {"WholeSubmission", Begin::ehlo,
     "C: STARTTLS\nS: 220 2.0.0\nT:\nC: EHLO x\nS: 250-\n-: STARTTLS\n+: AUTH PLAIN LOGIN\nA: "
     "alice wonderland\nS: 235\n"
     "C: MAIL FROM:<a@b.example>\nS: 250\nC: RCPT TO:<c@d.example>\nS: 250\nC: DATA\nS: 354\nC: "
     "hi\nC: .\nS: 250\nC: QUIT\nS: 221\nQ: 1",
     ListenerKind::submission, true},
    {"EhloIsForgotten", Begin::ehlo,
     "C: STARTTLS\nS: 220\nT:\nC: MAIL FROM:<a@b.example>\nS: 503 5.5.1\nA: alice wonderland\nS: "
     "503",
     ListenerKind::relay, true},
    {"TransactionIsForgotten", Begin::rcpt,
     "C: STARTTLS\nS: 220\nT:\nC: EHLO x\nS: 250-\nC: DATA\nS: 503", ListenerKind::relay, true},
    {"Twice", Begin::ehlo, "C: STARTTLS\nS: 220\nT:\nC: EHLO x\nS: 250-\nC: STARTTLS\nS: 503 5.5.1",
     ListenerKind::relay, true},
    {"WithArgument", Begin::ehlo, "C: STARTTLS now\nS: 501 5.5.4", ListenerKind::relay, true},
    {"BeforeEhlo", Begin::greeting, "C: STARTTLS\nS: 220\nT:\nC: EHLO x\nS: 250-",
     ListenerKind::relay, true},
    {"RelayTakesListedClientsOverTls", Begin::ehlo,
     "C: STARTTLS\nS: 220\nT:\nC: EHLO x\nS: 250-\nC: MAIL FROM:<>\nS: 250", ListenerKind::relay,
     true},
    {"ImplicitTls", Begin::ehlo,
     "C: STARTTLS\nS: 503 5.5.1\nC: MAIL FROM:<>\nS: 530 5.7.0\nA: alice wonderland\nS: 235\nC: "
     "MAIL FROM:<>\nS: 250",
     ListenerKind::submissions, true},
};
INSTANTIATE_TEST_SUITE_P(Tls, DialogueTest, testing::ValuesIn(secured), name_of);

} // namespace
} // namespace tests
