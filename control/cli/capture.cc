#include "control/cli/capture.h"

#include "control/cli/output.h"
#include "control/notation.h"
#include "control/schema/capture_limits.h"
#include "dataplane/base/address.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <iostream>
#include <openssl/evp.h>
#include <random>
#include <string_view>
#include <thread>
#include <unistd.h>
#include <vector>

namespace control::cli {
namespace {

namespace base = dataplane::base;
using Clock = std::chrono::steady_clock;

constexpr std::uint64_t chunk_bytes_max = 512U << 10; // of one shard: more would be a long turn
constexpr std::uint64_t reply_bytes_max = 8U
                                          << 20; // of all: a frame has 16 MiB, base64 adds a third
constexpr auto pause = std::chrono::milliseconds{100};
constexpr auto patience =
    std::chrono::seconds{5}; // beyond the time limit, for what is still to be read
constexpr std::size_t block_bytes_least = 32, shards_max = 64;

volatile std::sig_atomic_t interrupted = 0;

void append16(std::string& bytes, std::uint16_t value) {
    bytes += static_cast<char>(value & 0xff);
    bytes += static_cast<char>(value >> 8);
}
void append32(std::string& bytes, std::uint32_t value) {
    append16(bytes, static_cast<std::uint16_t>(value));
    append16(bytes, static_cast<std::uint16_t>(value >> 16));
}
void append_option(std::string& bytes, std::uint16_t code, std::string_view value) {
    append16(bytes, code);
    append16(bytes, static_cast<std::uint16_t>(value.size()));
    bytes += value;
    bytes.append((4 - value.size() % 4) % 4, '\0');
}

/// A block of pcapng (draft-ietf-opsawg-pcapng §3.1): its length stands before and behind.
std::string block(std::uint32_t type, const std::string& body) {
    const auto total = static_cast<std::uint32_t>(body.size() + 12);
    std::string bytes;
    append32(bytes, type);
    append32(bytes, total);
    bytes += body;
    append32(bytes, total);
    return bytes;
}

/// Section header, and one interface for each shard: its number is the shard's.
std::string file_header(std::size_t shard_count) {
    constexpr std::uint32_t section_block = 0x0a0d0d0a, interface_block = 1;
    constexpr std::uint32_t byte_order_magic = 0x1a2b3c4d, unknown_length = 0xffffffff;
    constexpr std::uint16_t end_option = 0, application_option = 4, name_option = 2;
    constexpr std::uint16_t resolution_option = 9, ethernet = 1;
    std::string section;
    append32(section, byte_order_magic);
    append16(section, 1); // version 1.0
    append16(section, 0);
    append32(section, unknown_length);
    append32(section, unknown_length);
    append_option(section, application_option, "millracectl capture");
    append_option(section, end_option, "");
    std::string file = block(section_block, section);
    for (std::size_t shard = 0; shard < shard_count; ++shard) {
        std::string body;
        append16(body, ethernet);
        append16(body, 0);
        append32(body, 0); // frames are not cut
        append_option(body, name_option, "shard " + std::to_string(shard));
        append_option(body, resolution_option, std::string_view{"\x09", 1}); // nanoseconds
        append_option(body, end_option, "");
        file += block(interface_block, body);
    }
    return file;
}

std::uint32_t number_at(std::string_view bytes, std::size_t at) {
    std::uint32_t value = 0;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
}

struct PacketBlock {
    std::uint64_t time_ns;
    std::string bytes;
};

/// The packet blocks in one shard's part of a reply; false when they are none.
bool take_blocks(const std::string& base64, std::vector<PacketBlock>& blocks) {
    std::string raw(base64.size() / 4 * 3 + 3, '\0');
    const int size = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(raw.data()),
                                     reinterpret_cast<const unsigned char*>(base64.data()),
                                     static_cast<int>(base64.size()));
    if (size < 0 || base64.size() % 4 != 0) return false;
    const auto padding = static_cast<std::size_t>(std::count(
        base64.end() - static_cast<std::ptrdiff_t>(std::min<std::size_t>(2, base64.size())),
        base64.end(), '='));
    raw.resize(static_cast<std::size_t>(size) - padding);
    for (std::string_view rest = raw; !rest.empty();) {
        if (rest.size() < block_bytes_least) return false;
        const std::uint32_t total = number_at(rest, 4);
        if (total < block_bytes_least || total > rest.size() || total % 4 != 0) return false;
        const std::uint64_t time = std::uint64_t{number_at(rest, 12)} << 32 | number_at(rest, 16);
        blocks.push_back({time, std::string{rest.substr(0, total)}});
        rest.remove_prefix(total);
    }
    return true;
}

/// The file that is written, in one piece after the other.
class File {
public:
    explicit File(const std::string& path)
        : path_(path),
          descriptor_(path == "-"
                          ? dup(STDOUT_FILENO)
                          : open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)) {}
    ~File() {
        if (descriptor_ >= 0) close(descriptor_);
    }
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    [[nodiscard]] bool is_open() const noexcept { return descriptor_ >= 0; }
    [[nodiscard]] bool write_all(std::string_view bytes) {
        bytes_ += bytes.size();
        while (!bytes.empty()) {
            const ssize_t took = write(descriptor_, bytes.data(), bytes.size());
            if (took < 0 && errno == EINTR) continue;
            if (took <= 0) return false;
            bytes.remove_prefix(static_cast<std::size_t>(took));
        }
        return true;
    }
    [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }
    [[nodiscard]] std::string why() const { return path_ + ": " + std::strerror(errno); }

private:
    std::string path_;
    int descriptor_;
    std::uint64_t bytes_ = 0;
};

/// What to ask for, or what is wrong with the command line.
std::expected<Json, std::string> request_of(const CaptureOptions& options) {
    Json request = Json::object();
    const bool other = !options.address.empty() || options.port != 0;
    if (options.connection.empty() == !other)
        return std::unexpected("say what to capture: --connection LOCAL,REMOTE, or --address IP "
                               "and --port N, or one of these");
    if (!options.connection.empty()) {
        const std::string_view both = options.connection;
        const std::size_t comma = both.find(',');
        const auto local = base::SocketAddress::parse(both.substr(0, comma));
        const auto remote = comma == std::string_view::npos
                                ? std::nullopt
                                : base::SocketAddress::parse(both.substr(comma + 1));
        if (!local || !remote)
            return std::unexpected("--connection: expected IP:PORT,IP:PORT, ours first, as "
                                   "`millracectl net connections` shows them, got " +
                                   in_quotes(both));
        request["local"] = local->to_string();
        request["remote"] = remote->to_string();
    }
    if (!options.address.empty()) {
        const auto address = base::IpAddress::parse(options.address);
        if (!address)
            return std::unexpected("--address: expected an IP address, got " +
                                   in_quotes(options.address));
        request["address"] = address->to_string();
    }
    if (options.port != 0) request["port"] = options.port;
    std::uint64_t bytes = 0;
    const char* end = options.bytes.data() + options.bytes.size();
    const auto [stop, error] = std::from_chars(options.bytes.data(), end, bytes);
    const bool plain = error == std::errc{} && stop == end;
    if ((!plain && !parse_size(options.bytes, bytes)) || bytes < schema::capture_bytes_min ||
        bytes > schema::capture_bytes_max)
        return std::unexpected(
            "--bytes: expected a size from 4KiB to 64MiB such as \"16MiB\", got " +
            in_quotes(options.bytes));
    request["bytes"] = bytes;
    request["seconds"] = options.seconds;
    request["id"] = std::uint64_t{std::random_device{}()} << 32 | std::random_device{}();
    return request;
}

struct Totals {
    std::uint64_t frames = 0, dropped = 0;
};

/// One reply's frames into the file; returns why not, or "". `full` when the file may not grow more.
std::string write_reply(const Json& reply, File& file, std::uint64_t bytes_max, Totals& totals,
                        bool& full) {
    std::vector<PacketBlock> blocks;
    for (const Json& part : reply.value("blocks", Json::array())) {
        if (!part.is_string() || !take_blocks(part.get<std::string>(), blocks))
            return "a shard sent something that is no pcapng";
    }
    std::stable_sort(blocks.begin(), blocks.end(), [](const PacketBlock& a, const PacketBlock& b) {
        return a.time_ns < b.time_ns;
    });
    for (const PacketBlock& each : blocks) {
        full = full || file.bytes() + each.bytes.size() > bytes_max;
        if (full) {
            ++totals.dropped;
            continue;
        }
        if (!file.write_all(each.bytes)) return file.why();
        ++totals.frames;
    }
    return "";
}

} // namespace

int capture(const AdminClient& client, const CaptureOptions& options) {
    auto request = request_of(options);
    if (!request) return misused(request.error());
    const auto on_signal = [](int) { interrupted = 1; };
    std::signal(SIGINT, on_signal);
    std::signal(SIGTERM, on_signal);
    std::signal(SIGPIPE, SIG_IGN);

    const auto started = client.post("/api/admin/capture/start", *request);
    if (!started) return complain(started.error().text);
    const auto stop = [&] {
        static_cast<void>(client.post("/api/admin/capture/stop", Json{{"id", (*request)["id"]}}));
    };
    File file(options.out); // not before: a capture that cannot begin leaves an old file as it was
    if (!file.is_open()) {
        const std::string why = file.why();
        stop();
        return complain(why);
    }
    std::size_t shard_count = 0, asked = 0;
    for (const Json& shard : started->value("shards", Json::array())) {
        ++asked;
        if (shard.is_number_unsigned())
            shard_count = std::max(shard_count, shard.get<std::size_t>() + 1);
    }
    shard_count = std::min(shard_count, shards_max);
    std::string failure = file.write_all(file_header(shard_count)) ? "" : file.why();

    const std::uint64_t bytes_max = (*request)["bytes"].get<std::uint64_t>();
    const Json read{
        {"id", (*request)["id"]},
        {"bytes", std::min(chunk_bytes_max, reply_bytes_max / std::max<std::size_t>(asked, 1))}};
    const auto give_up = Clock::now() + std::chrono::seconds{options.seconds} + patience;
    Totals totals;
    std::uint64_t dropped = 0;
    for (bool full = false; failure.empty() && !full && interrupted == 0;) {
        const auto reply = client.post("/api/admin/capture/read", read);
        if (!reply) {
            failure = reply.error().text;
            break;
        }
        const std::uint64_t before = totals.frames;
        failure = write_reply(*reply, file, bytes_max, totals, full);
        dropped = reply->value("dropped", std::uint64_t{0});
        const bool quiet = totals.frames == before;
        const bool running = reply->value("running", std::uint64_t{0}) != 0;
        if ((quiet && !running) || Clock::now() > give_up) break;
        if (quiet) std::this_thread::sleep_for(pause);
    }
    stop();
    std::cerr << totals.frames << " frame(s), " << file.bytes() << " bytes in "
              << (options.out == "-" ? "all" : options.out);
    if (dropped + totals.dropped != 0)
        std::cerr << "; " << dropped + totals.dropped << " frame(s) more did not fit";
    std::cerr << '\n';
    return failure.empty() ? exit_ok : complain(failure);
}

} // namespace control::cli
