// net_space.h: networks of Linux's own for a measurement: namespaces, veth pairs, and their settings.
//
// Scope      What `ip`, `ethtool` and /proc/sys are asked for, with the reasons. Needs root.
// Owns       A namespace each; the kernel ends it with the last process and descriptor in it, however
//            ours ends.
// Threading  The calling thread moves into a namespace and back; others are not touched.
// Failure    NotPossibleHere where the machine does not allow it; otherwise std::runtime_error.
#pragma once

#include <stdexcept>
#include <string>

namespace dataplane::loadgen {

/// What is asked for needs something that this machine, or this user, does not have: a reason to leave
/// a figure out, and no fault.
struct NotPossibleHere : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class NetSpace {
public:
    NetSpace();
    ~NetSpace();
    NetSpace(const NetSpace&) = delete;
    NetSpace& operator=(const NetSpace&) = delete;
    [[nodiscard]] int descriptor() const noexcept { return descriptor_; }

private:
    int descriptor_ = -1;
};

/// While it lives, this thread and what it starts are there.
class InNetSpace {
public:
    explicit InNetSpace(const NetSpace& space);
    ~InNetSpace();
    InNetSpace(const InNetSpace&) = delete;
    InNetSpace& operator=(const InNetSpace&) = delete;

private:
    int home_ = -1;
};

/// A cable between two of them: `interface_a` in one, `interface_b` in the other, MTU 1500, down.
void lay_cable(const NetSpace& a, const std::string& interface_a, const NetSpace& b,
               const std::string& interface_b);

// In the namespace where the thread is:
void set_sysctl(const std::string& name, const std::string& value); // "ipv4/tcp_rmem"
/// Frames leave as a wire has them: no larger than the MTU, with their checksums.
void without_offloads(const std::string& interface);
/// What arrives is worked off on this CPU, as a NIC's interrupt would have it, and not on the sender's,
/// where veth and loopback leave it.
void receive_on_cpu(const std::string& interface, int cpu);

} // namespace dataplane::loadgen
