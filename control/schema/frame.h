// frame.h: messages.fbs on a byte stream: four bytes of length, little endian, then one FlatBuffer.
//
// Scope      Cutting frames out of received bytes and putting one together. A frame is verified
//            before it is handed out, so its reader may follow every offset in it.
// Owns       FrameReader owns the bytes of the frame being received, frame_bytes_max at most.
// Threading  A FrameReader belongs to one thread.
// Failure    FrameError: the peer does not speak this protocol, and the connection is to be closed.
#pragma once

#include "control/schema/messages_generated.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <span>
#include <string>
#include <string_view>

namespace control::schema {

/// Ours: a list of 10,000 messages takes about 5 MB of JSON.
inline constexpr std::size_t frame_bytes_max = 16U << 20;
inline constexpr std::size_t frame_prefix_bytes = 4;

enum class FrameError : std::uint8_t { need_more, too_large, malformed };

/// Finishes `body` into a frame ready to be sent.
template <class Table>
[[nodiscard]] std::string make_frame(flatbuffers::FlatBufferBuilder& builder,
                                     flatbuffers::Offset<Table> body) {
    builder.Finish(CreateMessage(builder, BodyTraits<Table>::enum_value, body.Union()),
                   MessageIdentifier());
    const auto length = static_cast<std::uint32_t>(builder.GetSize());
    std::string frame(frame_prefix_bytes + length, '\0');
    std::memcpy(frame.data(), &length, sizeof length);
    std::memcpy(frame.data() + frame_prefix_bytes, builder.GetBufferPointer(), length);
    return frame;
}

/// A string field that may be absent, as a view into the message.
[[nodiscard]] inline std::string_view view(const flatbuffers::String* text) noexcept {
    return text == nullptr ? std::string_view{} : std::string_view{text->data(), text->size()};
}

class FrameReader {
public:
    void append(std::span<const std::byte> bytes) {
        // The part before start_ was handed out; it lives until now, as next() promises.
        buffer_.erase(0, start_);
        start_ = 0;
        buffer_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    }

    /// The next whole message; it lives until the next append(). need_more is the ordinary end.
    [[nodiscard]] std::expected<const Message*, FrameError> next() {
        if (buffer_.size() - start_ < frame_prefix_bytes)
            return std::unexpected(FrameError::need_more);
        std::uint32_t length = 0;
        std::memcpy(&length, buffer_.data() + start_, sizeof length);
        if (length > frame_bytes_max) return std::unexpected(FrameError::too_large);
        if (buffer_.size() - start_ - frame_prefix_bytes < length)
            return std::unexpected(FrameError::need_more);
        // FlatBuffers reads integers in place, and frames begin at any offset: so the frame is
        // moved to aligned memory.
        frame_.assign((length + sizeof(std::uint64_t) - 1) / sizeof(std::uint64_t), 0);
        std::memcpy(frame_.data(), buffer_.data() + start_ + frame_prefix_bytes, length);
        // A frame may carry a password.
        std::fill_n(buffer_.begin() + static_cast<std::ptrdiff_t>(start_),
                    frame_prefix_bytes + length, '\0');
        start_ += frame_prefix_bytes + length;
        const auto* bytes = reinterpret_cast<const std::uint8_t*>(frame_.data());
        if (length < sizeof(std::uint64_t))
            return std::unexpected(FrameError::malformed); // no room for an identifier
        flatbuffers::Verifier verifier(bytes, length);
        if (!VerifyMessageBuffer(verifier)) return std::unexpected(FrameError::malformed);
        const Message* message = GetMessage(bytes);
        if (message->body() == nullptr) return std::unexpected(FrameError::malformed);
        return message;
    }

private:
    std::string buffer_;
    std::size_t start_ = 0;
    std::vector<std::uint64_t> frame_;
};

} // namespace control::schema
