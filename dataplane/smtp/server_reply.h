// server_reply.h: what the server says, in one place: code, enhanced code, text.
//
// Scope      Every fixed reply of the server dialogue, and putting a reply on the wire. Which one
//            is due is decided in server_session.cc, admission.h and command_parser.h.
// Owns       Nothing; texts are literals, or outlive the call.
// Threading  Pure.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace dataplane::smtp {

using EnhancedStatus = std::array<std::uint16_t, 3>; // RFC 3463; all 0 for a reply without one

struct ServerReply {
    std::uint16_t code = 0;
    EnhancedStatus enhanced{};
    std::string_view text;

    [[nodiscard]] constexpr bool positive() const noexcept { return code < 400; }
};

/// Appends "250 2.1.0 text" with its CRLF. Text is cut to what the line may hold (§4.5.3.1.5), and
/// a control character in it becomes '?': some text comes from rule files and from the client.
void append_reply(std::string& out, const ServerReply& reply);

namespace replies {

inline constexpr ServerReply ok{250, {2, 0, 0}, "Ok"};
inline constexpr ServerReply sender_ok{250, {2, 1, 0}, "Sender ok"};
inline constexpr ServerReply recipient_ok{250, {2, 1, 5}, "Recipient ok"};
inline constexpr ServerReply start_content{354, {}, "End data with <CR><LF>.<CR><LF>"};
inline constexpr ServerReply cannot_verify{252, {2, 5, 2}, "Send some mail, I will try my best"};
inline constexpr ServerReply help{214, {2, 0, 0}, "RFC 5321, RFC 6409"};
inline constexpr ServerReply goodbye{221, {2, 0, 0}, "Bye"};
inline constexpr ServerReply start_tls{220, {2, 0, 0}, "Ready to start TLS"};

// Syntax.
inline constexpr ServerReply unknown_command{500, {5, 5, 2}, "Command not recognised"};
inline constexpr ServerReply bad_character{500, {5, 5, 2}, "Control character in command"};
inline constexpr ServerReply line_too_long{500, {5, 5, 2}, "Line too long"};
inline constexpr ServerReply auth_line_too_long{
    500, {5, 5, 6}, "Authentication exchange line too long"};
inline constexpr ServerReply bare_newline_in_command{500, {5, 5, 2}, "Lines end with <CR><LF>"};
inline constexpr ServerReply bad_arguments{501, {5, 5, 4}, "Syntax error in arguments"};
inline constexpr ServerReply no_arguments{501, {5, 5, 4}, "This command takes no arguments"};
inline constexpr ServerReply bad_helo{
    501, {5, 5, 4}, "Syntax: EHLO or HELO, then a host name or address literal"};
inline constexpr ServerReply bad_mail_syntax{501, {5, 5, 4}, "Syntax: MAIL FROM:<address>"};
inline constexpr ServerReply bad_rcpt_syntax{501, {5, 5, 4}, "Syntax: RCPT TO:<address>"};
inline constexpr ServerReply bad_sender{501, {5, 1, 7}, "Bad sender address syntax"};
inline constexpr ServerReply bad_recipient{501, {5, 1, 3}, "Bad recipient address syntax"};
inline constexpr ServerReply path_too_long{501, {5, 1, 3}, "Path too long"};
inline constexpr ServerReply bad_parameter{501, {5, 5, 4}, "Bad value of a parameter"};
inline constexpr ServerReply repeated_parameter{501, {5, 5, 4}, "Parameter given twice"};
inline constexpr ServerReply unknown_parameter{555, {5, 5, 4}, "Parameter not recognised"};
inline constexpr ServerReply not_implemented{502, {5, 5, 1}, "Command not implemented"};
inline constexpr ServerReply bad_base64{501, {5, 5, 2}, "Cannot decode base64"};
inline constexpr ServerReply address_not_ascii{553, {5, 6, 7}, "Address needs SMTPUTF8"};

// Sequence.
inline constexpr ServerReply say_hello_first{503, {5, 5, 1}, "Say EHLO or HELO first"};
inline constexpr ServerReply say_ehlo_first{503, {5, 5, 1}, "Say EHLO first"};
inline constexpr ServerReply mail_first{503, {5, 5, 1}, "MAIL first"};
inline constexpr ServerReply mail_twice{503, {5, 5, 1}, "Sender given already"};
inline constexpr ServerReply rcpt_first{503, {5, 5, 1}, "RCPT first"};
inline constexpr ServerReply no_valid_recipients{554, {5, 5, 1}, "No valid recipients"};
inline constexpr ServerReply not_between_chunks{503, {5, 5, 1}, "Not between chunks of a message"};
inline constexpr ServerReply binary_needs_bdat{503, {5, 5, 1}, "BODY=BINARYMIME needs BDAT"};
inline constexpr ServerReply not_in_transaction{503, {5, 5, 1}, "Not during a mail transaction"};

// TLS and AUTH.
inline constexpr ServerReply tls_already{503, {5, 5, 1}, "TLS is active already"};
inline constexpr ServerReply tls_not_offered{502, {5, 5, 1}, "STARTTLS not offered"};
inline constexpr ServerReply tls_first{530, {5, 7, 0}, "Issue a STARTTLS command first"};
inline constexpr ServerReply auth_done{503, {5, 5, 1}, "Authenticated already"};
inline constexpr ServerReply auth_needs_tls{
    538, {5, 7, 11}, "Encryption required for authentication"};
inline constexpr ServerReply auth_mechanism{
    504, {5, 5, 4}, "Authentication mechanism not supported"};
inline constexpr ServerReply auth_go_on{334, {}, ""};
inline constexpr ServerReply auth_user_name{334, {}, "VXNlcm5hbWU6"}; // "Username:"
inline constexpr ServerReply auth_password{334, {}, "UGFzc3dvcmQ6"};  // "Password:"
inline constexpr ServerReply auth_ok{235, {2, 7, 0}, "Authentication successful"};
inline constexpr ServerReply auth_cancelled{501, {5, 7, 0}, "Authentication cancelled"};
inline constexpr ServerReply auth_malformed{501, {5, 5, 2}, "Malformed authentication response"};
inline constexpr ServerReply auth_failed{535, {5, 7, 8}, "Authentication credentials invalid"};
inline constexpr ServerReply auth_unavailable{454, {4, 7, 0}, "Temporary authentication failure"};
inline constexpr ServerReply auth_throttled{
    454, {4, 7, 0}, "Too many failed logins, try again later"};
inline constexpr ServerReply auth_gives_up{
    421, {4, 7, 0}, "Too many failed logins, closing connection"};

// Policy.
inline constexpr ServerReply auth_required{530, {5, 7, 0}, "Authentication required"};
inline constexpr ServerReply relaying_denied{
    550, {5, 7, 1}, "Relaying denied: authenticate, or send from a listed network"};
inline constexpr ServerReply account_disabled{550, {5, 7, 1}, "Account is disabled"};
inline constexpr ServerReply account_changed{421, {4, 7, 0}, "Account was changed, log in again"};
inline constexpr ServerReply sender_not_allowed{
    553, {5, 7, 1}, "Sender domain not allowed for this account"};
inline constexpr ServerReply rate_exceeded{450, {4, 7, 1}, "Message rate of this account exceeded"};
inline constexpr ServerReply too_many_recipients{452, {4, 5, 3}, "Too many recipients"};
inline constexpr ServerReply too_many_messages{421, {4, 7, 0}, "Too many messages in this session"};
inline constexpr ServerReply session_too_long{421, {4, 7, 0}, "Session too long, connect again"};
inline constexpr ServerReply endless_line{
    421, {4, 7, 0}, "Line without an end, closing connection"};
inline constexpr ServerReply too_many_errors{421, {4, 7, 0}, "Too many errors"};
inline constexpr ServerReply too_many_idle_commands{
    421, {4, 7, 0}, "Too many commands without mail"};
inline constexpr ServerReply too_many_connections{
    421, {4, 7, 0}, "Too many connections from your address"};

// Content.
inline constexpr ServerReply too_large{552, {5, 3, 4}, "Message too large"};
inline constexpr ServerReply header_too_large{552, {5, 3, 4}, "Message header too large"};
inline constexpr ServerReply bare_newline{
    550, {5, 6, 0}, "Message contains a bare CR or LF: lines end with <CR><LF> (RFC 5321 2.3.8)"};
inline constexpr ServerReply content_rejected{550, {5, 7, 1}, "Message content rejected"};
inline constexpr ServerReply content_deferred{
    451, {4, 7, 1}, "Message content not accepted now, try again later"};
inline constexpr ServerReply signing_failed{
    451, {4, 7, 5}, "Message could not be signed, try again later"};
inline constexpr ServerReply mail_loop{554, {5, 4, 6}, "Too many Received headers: mail loop"};

// Spool.
inline constexpr ServerReply spool_full{452, {4, 3, 1}, "Insufficient system storage"};
inline constexpr ServerReply spool_overloaded{451, {4, 4, 5}, "System congestion, try again later"};
inline constexpr ServerReply spool_failed{
    451, {4, 3, 0}, "Message could not be stored, try again later"};
inline constexpr ServerReply spool_read_only{
    421, {4, 3, 0}, "Mail system not accepting mail, try again later"};

// Ends.
inline constexpr ServerReply idle_timeout{421, {4, 4, 2}, "Timed out, closing connection"};
inline constexpr ServerReply spool_closed{
    421, {4, 3, 2}, "Not accepting mail now, try again later"};
inline constexpr ServerReply shutting_down{421, {4, 3, 2}, "System shutting down, try again later"};

} // namespace replies
} // namespace dataplane::smtp
