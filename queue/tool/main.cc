// main.cc: millrace-spool: looks into spool pools, saves from them and rewrites them, while no relay runs.
//
// Scope      The command line; the work is in commands.h.
// Failure    Exit codes: 0 done or sound, 1 damage found or not all could be done, 2 the pool cannot be
//            opened or the command line is wrong.
#include "queue/tool/commands.h"

#include <CLI/CLI.hpp>
#include <exception>
#include <iostream>
#include <unistd.h>

namespace {

using namespace queue::tool;

/// For CLI11: an id as events and `inspect` print it.
std::string check_id(const std::string& text) {
    return queue::MessageId::parse(text) ? std::string{} : "a message id has 16 hexadecimal digits";
}

void add_key(CLI::App& command, std::string& key) {
    command
        .add_option("--key", key,
                    "key file of an encrypted pool, or env:NAME for a variable that holds it")
        ->type_name("SOURCE");
}

void add_mirror(CLI::App& command, std::string& mirror) {
    command
        .add_option("--mirror", mirror,
                    "the other half of its mirror: says which of the two counts")
        ->type_name("POOL");
}

void add_inspect(CLI::App& app, InspectOptions& options, std::string& record) {
    CLI::App& command = *app.add_subcommand(
        "inspect", "Show what a pool holds: superblock, damage, mail by state, domain and tenant");
    command.add_option("POOL", options.pool, "the pool's file, shard-0.spool for example")
        ->required();
    command.add_flag("--segments", options.segments,
                     "also each segment: live and dead bytes, records");
    command.add_flag("--messages", options.messages, "also each queued message");
    command.add_option("--record", record, "only this message, whatever has become of it")
        ->type_name("ID")
        ->check(check_id);
    command.add_flag("--json", options.json, "as JSON");
    command.add_flag("!--no-lock", options.lock,
                     "look although a relay has the pool open: what is shown may not fit together");
    add_mirror(command, options.mirror);
    add_key(command, options.key);
}

void add_verify(CLI::App& app, VerifyOptions& options) {
    CLI::App& command = *app.add_subcommand(
        "verify", "Read everything and check every checksum and rule; status 0 sound, 1 damaged");
    command.add_option("POOL", options.pool, "the pool's file")->required();
    command.add_flag("--json", options.json, "as JSON");
    add_mirror(command, options.mirror);
    add_key(command, options.key);
}

void add_export(CLI::App& app, ExportOptions& options, std::vector<std::string>& ids) {
    CLI::App& command = *app.add_subcommand(
        "export",
        "Write messages to files: ID.eml, and the envelope in ID.json; also from damaged pools");
    command.add_option("POOL", options.pool, "the pool's file; it is only read")->required();
    command.add_option("--to", options.folder, "folder for the files")
        ->type_name("DIR")
        ->required();
    command.add_option("--message", ids, "only these")->type_name("ID")->check(check_id);
    command.add_option("--domain", options.domain, "only mail with a recipient there");
    command.add_option("--sender", options.sender, "only mail of this sender");
    command.add_flag("--include-finished", options.finished,
                     "also what has been delivered or bounced and is not overwritten yet");
    command.add_flag("--stale", options.stale,
                     "although the pool is half of a mirror and has missed mail");
    add_mirror(command, options.mirror);
    add_key(command, options.key);
}

void add_upgrade(CLI::App& app, UpgradeOptions& options) {
    CLI::App& command = *app.add_subcommand(
        "upgrade",
        "Rewrite a pool in the present format, or into one of another size; the old one is kept");
    command.add_option("POOL", options.pool, "the pool's file")->required();
    command.add_option("--to", options.to, "where the new pool goes; in its place when not given")
        ->type_name("NEW");
    command
        .add_option("--pool-size", options.pool_bytes, "size of the new pool, 20GiB for example")
        ->transform(CLI::AsSizeValue(false));
    command
        .add_option("--segment-size", options.segment_bytes,
                    "segment size of the new pool, 64MiB for example")
        ->transform(CLI::AsSizeValue(false));
    add_key(command, options.key);
}

void add_attach(CLI::App& app, AttachOptions& options) {
    CLI::App& command = *app.add_subcommand(
        "attach",
        "Deliver a dead node's pool: runs millraced --attach, which accepts nothing and ends when "
        "the pool is empty");
    command.add_option("POOL", options.pool, "the dead node's pool")->required();
    command
        .add_option("--state-dir", options.state_dir,
                    "of the relay on this node, whose policy is used")
        ->type_name("DIR")
        ->required();
    command.add_option("--daemon", options.daemon, "millraced, when it is not beside this program");
    command.add_flag("--dry-run", options.dry_run, "only say what there is");
    add_mirror(command, options.mirror);
    add_key(command, options.key);
}

} // namespace

int main(int argc, char** argv) {
    CLI::App app{
        "millrace-spool: looks into the pools of a spool, saves from them and rewrites them.\n"
        "It takes a pool's lock: stop millraced first. Exit codes: 0 done, 1 damage found,\n"
        "2 the pool cannot be opened, or the command line is wrong."};
    app.require_subcommand(1);
    InspectOptions inspecting;
    VerifyOptions verifying;
    ExportOptions exporting;
    UpgradeOptions upgrading;
    AttachOptions attaching;
    std::string record;
    std::vector<std::string> ids;
    add_inspect(app, inspecting, record);
    add_verify(app, verifying);
    add_export(app, exporting, ids);
    add_upgrade(app, upgrading);
    add_attach(app, attaching);
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? exit_ok : exit_no_pool;
    }
    const Console console{std::cout, std::cerr, ::isatty(STDERR_FILENO) == 1};
    try {
        if (app.got_subcommand("inspect")) {
            if (!record.empty()) inspecting.record = queue::MessageId::parse(record);
            return inspect(inspecting, console);
        }
        if (app.got_subcommand("verify")) return verify(verifying, console);
        if (app.got_subcommand("export")) {
            for (const std::string& id : ids)
                exporting.messages.push_back(*queue::MessageId::parse(id));
            return export_messages(exporting, console);
        }
        if (app.got_subcommand("upgrade")) return upgrade(upgrading, console);
        return attach(attaching, console);
    } catch (const std::exception& error) { // memory, for one
        std::cerr << "millrace-spool: " << error.what() << '\n';
        return exit_no_pool;
    }
}
