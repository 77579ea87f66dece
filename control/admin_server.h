// admin_server.h: the loopback HTTP door: statistics for everybody on this machine, commands for
// token holders.
//
// Scope      GET /metrics, /status, /check-liveness without a token: they change nothing and name
//            no mail. Everything under /api/admin/ needs "Authorization: Bearer TOKEN"; bodies and
//            answers are JSON. What the requests do is control_process.h.
// Owns       The HTTP server and its few threads; the token file, mode 0600, made anew at each
//            start.
// Threading  start() and stop() from main; requests run on the server's threads.
// Failure    The constructor throws std::runtime_error (port taken, token file). Requests: 400 bad
//            input, 401 no token, 404 unknown, 409 exists, 422 configuration errors, 503 no data
//            plane; body {"error":"..."}.
#pragma once

#include "control/control_process.h"

#include <memory>

namespace control {

class AdminServer {
public:
    /// `process` outlives it. Listens when the constructor returns.
    explicit AdminServer(ControlProcess& process);
    ~AdminServer();
    AdminServer(const AdminServer&) = delete;
    AdminServer& operator=(const AdminServer&) = delete;

private:
    class Server;
    std::unique_ptr<Server> server_;
};

} // namespace control
