#include "dataplane/loadgen/net_space.h"

#include "dataplane/loadgen/child.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <sched.h>
#include <sstream>
#include <unistd.h>

namespace dataplane::loadgen {
namespace {

int this_space() {
    const int descriptor = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        throw NotPossibleHere(std::string("no network namespaces: ") + std::strerror(errno));
    return descriptor;
}

} // namespace

NetSpace::NetSpace() {
    if (geteuid() != 0) throw NotPossibleHere("network namespaces want root");
    const int home = this_space();
    if (unshare(CLONE_NEWNET) != 0) {
        const std::string reason = std::strerror(errno);
        close(home);
        throw NotPossibleHere("no network namespace may be made here: " + reason);
    }
    descriptor_ = this_space();
    setns(home, CLONE_NEWNET); // we were there: it cannot fail
    close(home);
    const InNetSpace there(*this);
    run_tool({"ip", "link", "set", "lo", "up"});
    set_sysctl("ipv6/conf/default/disable_ipv6", "1"); // its own chatter is not measured
}

NetSpace::~NetSpace() {
    close(descriptor_);
}

InNetSpace::InNetSpace(const NetSpace& space) : home_(this_space()) {
    if (setns(space.descriptor(), CLONE_NEWNET) != 0) {
        const std::string reason = std::strerror(errno);
        close(home_);
        throw NotPossibleHere("setns: " + reason);
    }
}

InNetSpace::~InNetSpace() {
    setns(home_, CLONE_NEWNET); // we were there: it cannot fail
    close(home_);
}

void lay_cable(const NetSpace& a, const std::string& interface_a, const NetSpace& b,
               const std::string& interface_b) {
    const InNetSpace there(a);
    run_tool({"ip", "link", "add", interface_a, "mtu", "1500", "type", "veth", "peer", "name",
              interface_b, "mtu", "1500"});
    run_tool({"ip", "link", "set", interface_b, "netns",
              "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(b.descriptor())});
}

void set_sysctl(const std::string& name, const std::string& value) {
    std::ofstream out("/proc/sys/net/" + name);
    out << value;
    out.close();
    if (!out) throw NotPossibleHere("cannot set /proc/sys/net/" + name + " to " + value);
}

void without_offloads(const std::string& interface) {
    run_tool({"ethtool", "-K", interface, "tx", "off", "tso", "off", "gso", "off", "gro", "off"});
}

void receive_on_cpu(const std::string& interface, int cpu) {
    // /sys shows the interfaces of the namespace in which it was mounted: a mount of our own is needed.
    std::ostringstream command;
    command << "mount -t sysfs sysfs /sys && for queue in /sys/class/net/"
            << interface << "/queues/rx-*; do printf %x " << (1U << static_cast<unsigned>(cpu))
            << " >\"$queue/rps_cpus\" || exit 1; done";
    run_tool({"unshare", "--mount", "sh", "-c", command.str()});
}

} // namespace dataplane::loadgen
