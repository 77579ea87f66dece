// Any content, cut anywhere: the decoder reads it as one piece, and only CR LF dot CR LF ends it.
#include "dataplane/base/check.h"
#include "dataplane/base/slab.h"
#include "dataplane/smtp/data_decoder.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace {

using namespace dataplane::smtp;
namespace base = dataplane::base;

struct Decoded {
    std::string content;
    std::size_t consumed = 0;
    bool finished = false;
    bool bare_newline = false;
};

Decoded decode(std::string_view input, Framing framing, BareNewlines newlines, unsigned seed,
               std::size_t piece_max) {
    std::minstd_rand random{seed};
    DataDecoder decoder;
    decoder.reset(framing, newlines);
    Decoded result;
    std::vector<std::byte> output(piece_max);
    std::size_t given = 0;
    while (true) {
        if (result.consumed == given)
            given += std::min<std::size_t>(1 + random() % piece_max, input.size() - given);
        const auto room = std::span{output}.first(1 + random() % piece_max);
        const auto progress = decoder.decode(
            base::as_bytes(input.substr(result.consumed, given - result.consumed)), room);
        CHECK(progress.written <= room.size());
        result.consumed += progress.consumed;
        CHECK(result.consumed <= given);
        result.content += base::as_text(room.first(progress.written));
        result.finished = progress.stop == DataDecoder::Stop::finished;
        if (result.finished) break;
        if (progress.stop == DataDecoder::Stop::need_input && result.consumed == input.size())
            break;
    }
    if (framing != Framing::dotted) result.content += base::as_text(decoder.finish_counted());
    result.bare_newline = decoder.bare_newline();
    return result;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 2) return 0;
    const Framing framing =
        std::array{Framing::dotted, Framing::counted, Framing::binary}[data[0] % 3];
    const BareNewlines newlines = data[0] % 2 == 0 ? BareNewlines::refuse : BareNewlines::make_crlf;
    const std::string_view input{reinterpret_cast<const char*>(data) + 2, size - 2};

    const Decoded whole = decode(input, framing, newlines, 1, input.size() + 4);
    const Decoded cut = decode(input, framing, newlines, data[1] + 1U, 1 + data[1] % 7);
    CHECK(whole.consumed == cut.consumed);
    CHECK(whole.finished == cut.finished);
    CHECK(whole.bare_newline == cut.bare_newline);
    CHECK(whole.bare_newline || whole.content == cut.content);

    const std::string_view read = input.substr(0, whole.consumed);
    if (whole.finished) CHECK(read == ".\r\n" || read.ends_with("\r\n.\r\n"));
    if (framing == Framing::dotted && !whole.finished) {
        CHECK(!input.starts_with(".\r\n") && input.find("\r\n.\r\n") == std::string_view::npos);
    }
    if (framing == Framing::binary) CHECK(whole.content == input);
    if (framing != Framing::binary && !whole.bare_newline) {
        const std::string& content = whole.content;
        for (std::size_t i = 0; i < content.size(); ++i) {
            if (content[i] == '\n') CHECK(i > 0 && content[i - 1] == '\r');
            // An unfinished message may end in a CR whose LF is yet to come.
            if (content[i] == '\r' && i + 1 < content.size()) CHECK(content[i + 1] == '\n');
        }
    }
    return 0;
}
