// interface.h: what packetdrill asks of a shared object that it loads with --so_filename.
//
// Scope      The table of 32 functions, in packetdrill's order, and the one symbol that it looks up. All
//            take `userdata` first and tell errors as libc does: -1 and errno.
#pragma once

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

extern "C" {

struct packetdrill_interface {
    void* userdata;
    void (*free)(void* userdata);

    int (*socket)(void* userdata, int domain, int type, int protocol);
    int (*bind)(void* userdata, int fd, const struct sockaddr* address, socklen_t length);
    int (*listen)(void* userdata, int fd, int backlog);
    int (*accept)(void* userdata, int fd, struct sockaddr* address, socklen_t* length);
    int (*connect)(void* userdata, int fd, const struct sockaddr* address, socklen_t length);
    ssize_t (*read)(void* userdata, int fd, void* to, size_t bytes);
    ssize_t (*readv)(void* userdata, int fd, const struct iovec* vectors, int count);
    ssize_t (*recv)(void* userdata, int fd, void* to, size_t bytes, int flags);
    ssize_t (*recvfrom)(void* userdata, int fd, void* to, size_t bytes, int flags,
                        struct sockaddr* address, socklen_t* length);
    ssize_t (*recvmsg)(void* userdata, int fd, struct msghdr* message, int flags);
    ssize_t (*write)(void* userdata, int fd, const void* from, size_t bytes);
    ssize_t (*writev)(void* userdata, int fd, const struct iovec* vectors, int count);
    ssize_t (*send)(void* userdata, int fd, const void* from, size_t bytes, int flags);
    ssize_t (*sendto)(void* userdata, int fd, const void* from, size_t bytes, int flags,
                      const struct sockaddr* address, socklen_t length);
    ssize_t (*sendmsg)(void* userdata, int fd, const struct msghdr* message, int flags);
    int (*fcntl)(void* userdata, int fd, int command, ...);
    int (*ioctl)(void* userdata, int fd, unsigned long request, ...);
    int (*close)(void* userdata, int fd);
    int (*shutdown)(void* userdata, int fd, int how);
    int (*getsockopt)(void* userdata, int fd, int level, int name, void* value, socklen_t* length);
    int (*setsockopt)(void* userdata, int fd, int level, int name, const void* value,
                      socklen_t length);
    int (*poll)(void* userdata, struct pollfd* fds, nfds_t count, int timeout_ms);

    /// One raw IP packet towards the stack; 0 or -1.
    int (*netdev_send)(void* userdata, const void* packet, size_t bytes);
    /// The next raw IP packet from the stack; sleeps until there is one. `*bytes` is the buffer's size,
    /// then the packet's; 0 after a long silence.
    int (*netdev_receive)(void* userdata, void* packet, size_t* bytes, long long* time_us);
    int (*usleep)(void* userdata, useconds_t microseconds);
    int (*gettimeofday)(void* userdata, struct timeval* time, struct timezone* zone);

    int (*epoll_create)(void* userdata, int size);
    int (*epoll_ctl)(void* userdata, int epoll, int operation, int fd, struct epoll_event* event);
    int (*epoll_wait)(void* userdata, int epoll, struct epoll_event* events, int count,
                      int timeout_ms);
    int (*pipe)(void* userdata, int fds[2]);
    int (*splice)(void* userdata, int from, loff_t* from_offset, int to, loff_t* to_offset,
                  size_t bytes, unsigned int flags);
};

/// \param flags  packetdrill's --so_flags: settings of profile.h with commas between
void packetdrill_interface_init(const char* flags, struct packetdrill_interface* interface);

} // extern "C"
