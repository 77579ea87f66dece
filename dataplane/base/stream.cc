#include "dataplane/base/stream.h"

namespace dataplane::base {

std::string_view to_string(NetError error) noexcept {
    switch (error) {
    case NetError::end_of_stream:
        return "connection closed by peer";
    case NetError::refused:
        return "connection refused";
    case NetError::reset:
        return "connection reset by peer";
    case NetError::timed_out:
        return "timed out";
    case NetError::cancelled:
        return "cancelled";
    case NetError::unreachable:
        return "host or network unreachable";
    case NetError::no_port:
        return "no source port left";
    case NetError::no_buffers:
        return "out of network buffers";
    case NetError::address_in_use:
        return "address in use";
    case NetError::address_not_available:
        return "source address not available";
    case NetError::permission:
        return "permission denied";
    case NetError::tls:
        return "TLS failure";
    case NetError::closed:
        return "connection closed";
    }
    return "unknown network error";
}

} // namespace dataplane::base
