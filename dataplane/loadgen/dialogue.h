// dialogue.h: what the source's and the sink's SMTP have in common: a stream, its lines, its
// replies.
//
// Scope      One connection's mechanics: staged output, reply parsing, and the step into TLS.
// Owns       The stream and its line reader.
// Threading  The Loop's.
#pragma once

#include "dataplane/base/line_reader.h"
#include "dataplane/base/stream.h"
#include "dataplane/loadgen/limits.h"

#include <cstdint>
#include <string>
#include <string_view>

namespace dataplane::loadgen {

/// Turns a plain stream into a TLS one. An interface, so that the dialogues can be tested without
/// TLS and know nothing of certificates.
class TlsWrapper {
public:
    virtual ~TlsWrapper() = default;
    /// \param client  which of the clients that it plays this is: each has sessions of its own to resume
    [[nodiscard]] virtual base::Task<base::NetResult<base::StreamPtr>>
    wrap(base::StreamPtr plain, base::Deadline deadline, std::size_t client) = 0;
};

/// What a peer says goes to terminals, files and pages: anything but printable ASCII becomes '?'.
[[nodiscard]] std::string printable(std::string_view text);

struct Reply {
    std::uint16_t code = 0;
    std::string text; // of the last line, cut at reply_text_bytes_max, printable
    [[nodiscard]] bool positive() const noexcept { return code >= 200 && code < 300; }
};

class Dialogue {
public:
    explicit Dialogue(base::StreamPtr stream)
        : stream_(std::move(stream)), reader_(*stream_, line_bytes_max) {}

    /// Bytes to send; they leave with flush().
    std::string out;

    [[nodiscard]] base::Task<base::NetResult<>> flush(base::Deadline deadline);
    [[nodiscard]] base::Task<base::NetResult<base::Line>> read_line(base::Deadline deadline) {
        return reader_.read_line(deadline);
    }
    /// One reply with all its lines. A line that is no reply is NetError::reset: nothing that
    /// follows it could be trusted. `lines`, when given, gets the text of every line, LF between
    /// them.
    [[nodiscard]] base::Task<base::NetResult<Reply>> read_reply(base::Deadline deadline,
                                                                std::string* lines = nullptr);
    /// Stages one line, sends it and reads its reply.
    [[nodiscard]] base::Task<base::NetResult<Reply>>
    exchange(std::string_view line, base::Deadline deadline, std::string* lines = nullptr);
    /// After a failure there is no stream any more: only close() may follow.
    [[nodiscard]] base::Task<base::NetResult<>> start_tls(TlsWrapper& tls, base::Deadline deadline,
                                                          std::size_t client = 0);

    [[nodiscard]] bool tls_resumed() const noexcept {
        return stream_ != nullptr && stream_->info().tls_resumed;
    }
    [[nodiscard]] bool line_waiting() const noexcept { return reader_.line_waiting(); }
    /// The stream itself, for reading content; ends the last line's life.
    [[nodiscard]] base::Stream& content() noexcept {
        reader_.release();
        return *stream_;
    }
    void close() noexcept {
        if (stream_) stream_->close(); // a failed handshake has taken it along
    }
    void abort() noexcept {
        if (stream_) stream_->abort();
    }

private:
    base::StreamPtr stream_;
    base::LineReader reader_;
};

} // namespace dataplane::loadgen
