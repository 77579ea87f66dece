// sign_files.cc: signs message files as the relay signs what it is given, for verifiers of other hands.
//
// Usage      dkim_sign_files IN OUT SELECTOR=KEYFILE=FORMS...
//            Every IN/NAME becomes OUT/NAME with a signature by millrace.example for each selector; FORMS is
//            "relaxed/simple" and so on. The content is fed in pieces of random sizes.
// Failure    Status 1 and a sentence. A message that is not signed is named with the reason.
#include "dataplane/base/slab.h"
#include "dataplane/message/dkim/inline_signer.h"
#include "dataplane/message/dkim/message_signer.h"
#include "dataplane/message/header_scan.h"

#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>

namespace {

namespace fs = std::filesystem;
namespace base = dataplane::base;
using namespace dataplane::message;

dkim::KeyTable table(std::string argument) {
    const std::size_t first = argument.find('='), second = argument.rfind('=');
    const std::string forms = argument.substr(second + 1);
    dkim::KeyTable made;
    made.domains = {"millrace.example"};
    made.scope = dkim::Scope::always;
    made.selector = argument.substr(0, first);
    made.key_file = argument.substr(first + 1, second - first - 1);
    made.header_form =
        forms.starts_with("relaxed") ? dkim::Canonical::relaxed : dkim::Canonical::simple;
    made.body_form =
        forms.ends_with("relaxed") ? dkim::Canonical::relaxed : dkim::Canonical::simple;
    made.headers = {"From",         "To",         "Cc",         "Subject",
                    "Date",         "Message-ID", "References", "MIME-Version",
                    "Content-Type", "Comments",   "Keywords",   "Reply-To"};
    made.oversign = {"From", "To",         "Cc",           "Subject",
                     "Date", "Message-ID", "MIME-Version", "Content-Type"};
    return made;
}

/// As smtp/server_data.cc does it.
bool sign(const fs::path& from, const fs::path& to,
          const std::shared_ptr<const dkim::KeySet>& keys) {
    std::ifstream stream(from, std::ios::binary);
    const std::string content{std::istreambuf_iterator<char>(stream), {}};
    std::minstd_rand random{static_cast<unsigned>(content.size())};
    dkim::MessageSigner signer;
    dkim::InlineSigner key_user;
    HeaderScan scan;
    signer.begin(keys, "");
    for (std::size_t at = 0; at < content.size();) {
        const std::string_view piece = std::string_view{content}.substr(at, 1 + random() % 5000);
        at += piece.size();
        std::size_t header_bytes = 0;
        if (!scan.done()) {
            const std::size_t before = scan.header_bytes();
            scan.feed(base::as_bytes(piece));
            header_bytes = scan.header_bytes() - before;
            signer.header(piece.substr(0, header_bytes));
            if (scan.done()) signer.header_ended(scan.end() == HeaderEnd::blank_line);
        }
        if (scan.done()) signer.body(piece.substr(header_bytes));
    }
    std::string prelude =
        "Received: from a.client.example ([192.0.2.1])\r\n\tby relay.example with ESMTP id 1;\r\n"
        "\tThu, 01 Jan 2026 00:00:00 +0000\r\n";
    if (!scan.has_message_id()) prelude += "Message-ID: <1@relay.example>\r\n";
    if (!scan.has_date()) prelude += "Date: Thu, 01 Jan 2026 00:00:00 +0000\r\n";
    const auto now =
        std::chrono::floor<std::chrono::milliseconds>(std::chrono::system_clock::now());
    auto task = signer.sign(key_user, prelude, 16'384, now, base::Deadline::never());
    task.start();
    const dkim::SignReport report = task.result();
    std::ofstream(to, std::ios::binary) << prelude << content;
    if (report.signed_count != 0) return true;
    std::cout << "unsigned " << from.filename().string() << ' ' << to_string(report.why) << '\n';
    return false;
}

} // namespace

int main(int argc, char** argv) {
    if (argc < 4) {
        std::cerr << "usage: dkim_sign_files IN OUT SELECTOR=KEYFILE=FORMS...\n";
        return 2;
    }
    std::vector<dkim::KeyTable> tables;
    for (int i = 3; i < argc; ++i)
        tables.push_back(table(argv[i]));
    dkim::KeyCache cache;
    const auto loaded = dkim::load_key_set(tables, cache);
    if (!loaded) {
        std::cerr << loaded.error().front().text << '\n';
        return 1;
    }
    for (const auto& entry : fs::directory_iterator(argv[1]))
        sign(entry.path(), fs::path{argv[2]} / entry.path().filename(), loaded->keys);
    return 0;
}
