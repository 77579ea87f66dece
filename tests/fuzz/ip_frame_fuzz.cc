// Goal: no sequence of frames breaks the IP layer, and what it hands on holds together. Method: the
// input is a list of (two bytes of length, one byte of flags and time, frame). Checksums count as good,
// or are made right by the flags, so that the fuzzer gets behind them.
#include "dataplane/base/check.h"
#include "dataplane/net/ip/layer.h"

#include <algorithm>
#include <vector>

namespace {

using namespace dataplane::net;
using dataplane::base::IpAddress;

class Sink final : public Port {
public:
    Sink() { info_.mac = {2, 0, 0, 0, 0, 1}; }
    const PortInfo& info() const noexcept override { return info_; }
    std::size_t receive(std::span<ReceivedFrame>) noexcept override { return 0; }
    void release(std::span<const ReceivedFrame>) noexcept override {}
    SendResult send(const TransmitFrame& frame) noexcept override {
        std::size_t bytes = frame.header.size();
        CHECK(bytes <= frame_header_bytes_max);
        CHECK(std::size_t{frame.l2_bytes} + frame.l3_bytes + frame.l4_bytes <= bytes);
        for (const FrameSlice& slice : frame.payload) {
            CHECK(slice.offset + slice.bytes <= slice.slab->bytes);
            bytes += slice.bytes;
        }
        CHECK(bytes <= std::size_t{frame.l2_bytes} + info_.mtu);
        return SendResult::queued;
    }
    std::size_t send_room() const noexcept override { return 64; }
    void flush() noexcept override {}
    const PortCounters& counters() const noexcept override { return counters_; }

private:
    PortInfo info_;
    PortCounters counters_;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace std::chrono_literals;
    Sink port;
    std::minstd_rand random{1};
    ip::LayerOptions options;
    options.addresses = {
        {IpAddress::v4({192, 0, 2, 10}), 24},
        {IpAddress::v6({0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10}), 64}};
    options.routes = {{{IpAddress{}, 0}, IpAddress::v4({192, 0, 2, 1})}};
    options.neighbours_max = 8;
    options.path_mtus_max = 4;
    options.reassemblies_max = 4;
    ip::Layer layer{port, options, random};
    dataplane::base::TimePoint now{1s};
    std::vector<std::byte> bytes;
    std::optional<ip::TransportError> error;
    ip::Path path;

    while (size >= 3) {
        const std::size_t length = std::min<std::size_t>(data[0] << 8 | data[1], size - 3);
        const std::uint8_t flags = data[2];
        const auto* first = reinterpret_cast<const std::byte*>(data + 3);
        bytes.assign(first, first + length);
        data += 3 + length;
        size -= 3 + length;

        ReceivedFrame frame;
        frame.bytes = bytes;
        frame.ip_checksum = frame.l4_checksum =
            (flags & 1) != 0 ? ChecksumState::good : ChecksumState::unknown;
        const auto datagram = layer.receive(frame, now, error);
        CHECK(!(datagram && error));
        if (datagram) {
            CHECK(datagram->payload.size() >= 20 && datagram->payload.size() <= 65535);
            CHECK(layer.is_ours(datagram->destination) && !layer.is_ours(datagram->source));
            CHECK(datagram->source.is_v6() == datagram->destination.is_v6());
            const std::byte header[20]{};
            static_cast<void>(layer.send(path, datagram->destination, datagram->source,
                                         tcp::Ecn::not_ect, header, {}, 0, true, now));
            path = {}; // the next datagram may be from somebody else
        }
        if (error) {
            CHECK(layer.is_ours(error->source));
            const bool too_big = error->kind == ip::TransportError::Kind::packet_too_big;
            CHECK(!too_big ||
                  (error->mtu >= (error->source.is_v6() ? 1280 : 576) && error->mtu < 1500));
            layer.accept_path_mtu(*error, now);
        }
        now += std::chrono::milliseconds{(flags >> 1) * 40};
        layer.on_timer(now);
        CHECK(layer.deadline() > now);
    }
    return 0;
}
