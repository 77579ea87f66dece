// relay_to_sink.js: every client here may relay, and all mail goes to one host.
'use strict';

exports.register = function () {
    this.register_hook('connect', 'allow');
    this.register_hook('rcpt', 'accept');
    this.register_hook('get_mx', 'to_sink');
};

exports.allow = function (next, connection) {
    connection.relaying = true;
    next();
};

exports.accept = function (next) {
    next(OK);
};

exports.to_sink = function (next) {
    next(OK, { priority: 0, exchange: '127.0.0.1', port: @SINK_PORT@ });
};
