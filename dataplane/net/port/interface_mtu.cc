#include "dataplane/net/port/interface_mtu.h"

#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <optional>
#include <string_view>

namespace dataplane::net {
namespace {

constexpr timeval answer_limit{1, 0};
constexpr std::size_t answer_bytes_max = 32768;

struct Link {
    std::uint32_t mtu = 0;
    std::uint32_t peer = 0;                      // its index; 0: none
    std::optional<std::uint32_t> peer_namespace; // our number of it; none: ours
    bool veth = false;
};

template <class Each>
void for_each(const rtattr* at, std::size_t bytes, const Each& each) {
    for (auto left = static_cast<int>(bytes); RTA_OK(at, left); at = RTA_NEXT(at, left))
        each(*at, std::string_view{static_cast<const char*>(RTA_DATA(at)), RTA_PAYLOAD(at)});
}

std::uint32_t number_in(std::string_view bytes) noexcept {
    std::uint32_t number = 0;
    std::memcpy(&number, bytes.data(), std::min(bytes.size(), sizeof number));
    return number;
}

Link read(const nlmsghdr& answer) {
    Link link;
    const auto* const info = static_cast<const ifinfomsg*>(NLMSG_DATA(&answer));
    for_each(IFLA_RTA(info), IFLA_PAYLOAD(&answer), [&](const rtattr& one, std::string_view value) {
        switch (one.rta_type) {
        case IFLA_MTU:
            link.mtu = number_in(value);
            break;
        case IFLA_LINK:
            link.peer = number_in(value);
            break;
        case IFLA_LINK_NETNSID:
            link.peer_namespace = number_in(value);
            break;
        case IFLA_LINKINFO:
            for_each(static_cast<const rtattr*>(RTA_DATA(&one)), RTA_PAYLOAD(&one),
                     [&](const rtattr& inner, std::string_view kind) {
                         if (inner.rta_type == IFLA_INFO_KIND) link.veth = kind.starts_with("veth");
                     });
            break;
        default:
            break;
        }
    });
    return link;
}

std::optional<Link> ask(int socket, std::uint32_t index,
                        std::optional<std::uint32_t> name_space) noexcept {
    struct {
        nlmsghdr header;
        ifinfomsg info;
        rtattr attribute;
        std::uint32_t value;
    } question{};
    question.header.nlmsg_len =
        name_space ? sizeof question : offsetof(decltype(question), attribute);
    question.header.nlmsg_type = RTM_GETLINK;
    question.header.nlmsg_flags = NLM_F_REQUEST;
    question.info.ifi_family = AF_UNSPEC;
    question.info.ifi_index = static_cast<int>(index);
    question.attribute = {.rta_len = RTA_LENGTH(sizeof question.value),
                          .rta_type = IFLA_TARGET_NETNSID};
    question.value = name_space.value_or(0);
    if (send(socket, &question, question.header.nlmsg_len, 0) < 0) return std::nullopt;
    alignas(nlmsghdr) std::array<char, answer_bytes_max> bytes;
    const ssize_t got = recv(socket, bytes.data(), bytes.size(), 0);
    const auto* const answer = reinterpret_cast<const nlmsghdr*>(bytes.data());
    if (got < 0 || !NLMSG_OK(answer, static_cast<std::size_t>(got)) ||
        answer->nlmsg_type != RTM_NEWLINK) {
        return std::nullopt;
    }
    return read(*answer);
}

} // namespace

InterfaceMtu interface_mtu(unsigned index) noexcept {
    const int socket = ::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (socket < 0) return {};
    setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &answer_limit, sizeof answer_limit);
    InterfaceMtu found;
    const auto fit = [](std::uint32_t mtu) {
        return static_cast<std::uint16_t>(std::min<std::uint32_t>(mtu, UINT16_MAX));
    };
    if (const auto own = ask(socket, index, std::nullopt)) {
        found.bytes = fit(own->mtu);
        if (own->veth) {
            const auto peer = ask(socket, own->peer, own->peer_namespace);
            if (!peer || !peer->veth) {
                found.peer_hidden = true;
            } else if (fit(peer->mtu) < found.bytes) {
                found.bytes = fit(peer->mtu);
                found.of_peer = true;
            }
        }
    }
    close(socket);
    return found;
}

} // namespace dataplane::net
