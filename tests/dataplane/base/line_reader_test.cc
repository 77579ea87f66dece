// Goal: lines come out the same however their bytes were split on the way.
#include "dataplane/base/line_reader.h"

#include <deque>
#include <gtest/gtest.h>
#include <vector>

namespace dataplane::base {
namespace {

using namespace std::chrono_literals;

/// A stream that gives out its pieces one receive buffer at a time, each once asked for.
class PieceStream final : public Stream {
public:
    explicit PieceStream(std::vector<std::string> pieces) {
        for (std::string& piece : pieces)
            pieces_.push_back(std::move(piece));
    }
    [[nodiscard]] std::span<const std::byte> unread() const noexcept override {
        return as_bytes(std::string_view{front_}.substr(begin_));
    }
    void consume(std::size_t bytes) noexcept override {
        CHECK(bytes <= front_.size() - begin_);
        begin_ += bytes;
    }
    Task<NetResult<>> fill(Deadline) override {
        if (begin_ < front_.size()) co_return NetResult<>{};
        if (pieces_.empty()) co_return std::unexpected(NetError::end_of_stream);
        front_ = std::move(pieces_.front());
        pieces_.pop_front();
        begin_ = 0;
        if (front_ == "(timeout)") {
            front_.clear();
            co_return std::unexpected(NetError::timed_out);
        }
        co_return NetResult<>{};
    }
    Task<NetResult<>> write(std::span<const std::byte>, Deadline) override {
        co_return NetResult<>{};
    }
    Task<NetResult<>> write(SlabChain, Deadline) override { co_return NetResult<>{}; }
    Task<NetResult<>> drain(Deadline) override { co_return NetResult<>{}; }
    Task<NetResult<>> shutdown_write(Deadline) override { co_return NetResult<>{}; }
    void close() noexcept override {}
    void abort() noexcept override {}
    [[nodiscard]] const StreamInfo& info() const noexcept override { return info_; }

private:
    std::deque<std::string> pieces_;
    std::string front_;
    std::size_t begin_ = 0;
    StreamInfo info_;
};

/// Every line with its end, and the error that ended the reading.
Task<void> read_all(LineReader& reader, std::vector<std::string>& lines) {
    for (;;) {
        const auto line = co_await reader.read_line(Deadline::never());
        if (!line) {
            lines.push_back("!" + std::string{to_string(line.error())});
            if (line.error() == NetError::timed_out) continue;
            co_return;
        }
        const char* end = line->end == LineEnd::crlf       ? ""
                          : line->end == LineEnd::bare_lf  ? "<LF>"
                          : line->end == LineEnd::too_long ? "<long>"
                                                           : "<endless>";
        lines.push_back(std::string{line->text} + end);
        if (line->end == LineEnd::endless) co_return;
    }
}

std::vector<std::string> lines_of(std::vector<std::string> pieces, std::size_t limit = 64) {
    PieceStream stream{std::move(pieces)};
    LineReader reader{stream, limit};
    std::vector<std::string> lines;
    auto task = read_all(reader, lines);
    task.start();
    EXPECT_TRUE(task.done());
    return lines;
}

const std::string closed = "!connection closed by peer";

TEST(LineReader, SplittingAnywhereChangesNothing) {
    const std::string text = "EHLO a\r\nbare\nDATA\r\n\r\n\n\rx\r\r\nend\r\n";
    const std::vector<std::string> whole = lines_of({text});
    EXPECT_EQ(whole, (std::vector<std::string>{"EHLO a", "bare<LF>", "DATA", "", "<LF>", "\rx\r",
                                               "end", closed}));
    for (std::size_t first = 0; first <= text.size(); ++first) {
        for (std::size_t second = first; second <= text.size(); ++second) {
            std::vector<std::string> pieces;
            for (const auto& piece :
                 {text.substr(0, first), text.substr(first, second - first), text.substr(second)}) {
                if (!piece.empty()) pieces.push_back(piece);
            }
            ASSERT_EQ(lines_of(pieces), whole) << first << " " << second;
        }
    }
    std::vector<std::string> bytes;
    for (const char byte : text)
        bytes.emplace_back(1, byte);
    EXPECT_EQ(lines_of(bytes), whole);
}

TEST(LineReader, ALineMayBeAsLongAsTheLimitAndNoLonger) {
    const std::string fits = std::string(14, 'a') + "\r\n";
    const std::string too_long = std::string(15, 'b') + "\r\n";
    for (const std::size_t split : {0, 1, 8, 14, 15, 16}) {
        for (const std::string& line : {fits, too_long}) {
            std::vector<std::string> pieces;
            if (split > 0) pieces.push_back(line.substr(0, split));
            if (split < line.size()) pieces.push_back(line.substr(split) + "next\r\n");
            if (split == line.size()) pieces.emplace_back("next\r\n");
            const auto lines = lines_of(pieces, 16);
            const std::string expected = line == fits ? std::string(14, 'a') : "<long>";
            EXPECT_EQ(lines, (std::vector<std::string>{expected, "next", closed})) << split;
        }
    }
}

TEST(LineReader, ALineThatIsMuchTooLongIsDroppedUpToItsEnd) {
    std::vector<std::string> pieces(16, std::string(4096, 'x'));
    pieces.emplace_back("x\r\nQUIT\r\n");
    EXPECT_EQ(lines_of(pieces, 512), (std::vector<std::string>{"<long>", "QUIT", closed}));
}

TEST(LineReader, ALineThatDoesNotEndIsGivenUpAtTheSameByteHoweverItCame) {
    constexpr std::size_t limit = 512;
    const std::string most(limit + skipped_bytes_max, 'x'); // in front of the LF
    for (const std::size_t split : {1UL, 100UL, limit, most.size()}) {
        std::vector<std::string> pieces{most.substr(0, split)};
        pieces.push_back(most.substr(split) + "\nQUIT\r\n");
        EXPECT_EQ(lines_of(pieces, limit), (std::vector<std::string>{"<long>", "QUIT", closed}))
            << split;
        pieces.back().insert(0, 1, 'x');
        EXPECT_EQ(lines_of(pieces, limit), std::vector<std::string>{"<endless>"}) << split;
    }
    // Nobody waits for the end of one that has none.
    EXPECT_EQ(lines_of(std::vector<std::string>(1000, std::string(4096, 'x')), limit),
              std::vector<std::string>{"<endless>"});
}

TEST(LineReader, ATimeoutInTheMiddleOfALineLosesNothing) {
    EXPECT_EQ(
        lines_of({"MAIL FR", "(timeout)", "OM:<a", "(timeout)", ">\r\nQ", "(timeout)", "UIT\r\n"}),
        (std::vector<std::string>{"!timed out", "!timed out", "MAIL FROM:<a>", "!timed out", "QUIT",
                                  closed}));
    EXPECT_EQ(lines_of({std::string(20, 'x'), "(timeout)", "xx\r\nQUIT\r\n"}, 16),
              (std::vector<std::string>{"!timed out", "<long>", "QUIT", closed}));
}

Task<void> read_one(LineReader& reader, std::string& out) {
    const auto line = co_await reader.read_line(Deadline::never());
    if (line) out = line->text;
}

TEST(LineReader, BytesBehindALineStayInTheStream) {
    PieceStream stream{{"BDAT 4\r\nabcd"}};
    LineReader reader{stream, 64};
    std::string line;
    auto task = read_one(reader, line);
    task.start();
    EXPECT_EQ(line, "BDAT 4");
    EXPECT_FALSE(reader.line_waiting());
    reader.release();
    EXPECT_EQ(as_text(stream.unread()), "abcd");
}

TEST(LineReader, SaysWhetherAnotherLineHasCome) {
    PieceStream stream{{"a\r\nb\r\nc"}};
    LineReader reader{stream, 64};
    std::string line;
    auto first = read_one(reader, line);
    first.start();
    EXPECT_TRUE(reader.line_waiting());
    auto second = read_one(reader, line);
    second.start();
    EXPECT_EQ(line, "b");
    EXPECT_FALSE(reader.line_waiting());
}

TEST(LineReader, NothingOfTheOldStreamIsReadFromTheNewOne) {
    PieceStream plain{{"STARTTLS\r\nMAIL FROM:<injected>\r\n"}};
    PieceStream secure{{"EHLO b\r\n"}};
    LineReader reader{plain, 64};
    std::string line;
    auto first = read_one(reader, line);
    first.start();
    reader.switch_to(secure);
    auto second = read_one(reader, line);
    second.start();
    EXPECT_EQ(line, "EHLO b");
}

} // namespace
} // namespace dataplane::base
