#include "tls_offload/bench/tls_bench.h"

#include "tls_offload/openssl.h"
#include "tls_offload/relief.h"
#include "tls_offload/server_set.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <memory>
#include <openssl/pem.h>
#include <stdexcept>
#include <sys/resource.h>
#include <thread>

namespace tls_offload::bench {
namespace {

constexpr const char* host = "mx.example.com";
constexpr std::size_t record_bytes = 16'384;

void require(bool good, const char* what) {
    if (!good) throw std::runtime_error(std::string{what} + ": " + take_error_text());
}

double cpu_us() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}
double wall_us() {
    return std::chrono::duration<double, std::micro>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

CertificateHandle issue(EVP_PKEY& key, const char* name, EVP_PKEY& issuer_key, X509* issuer,
                        bool authority) {
    CertificateHandle made{X509_new()};
    X509& certificate = *made;
    X509_set_version(&certificate, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(&certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(&certificate), -86'400);
    X509_gmtime_adj(X509_getm_notAfter(&certificate), 86'400L * 90);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(&certificate), "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(name), -1, -1, 0);
    X509_set_issuer_name(&certificate,
                         X509_get_subject_name(issuer == nullptr ? &certificate : issuer));
    X509_set_pubkey(&certificate, &key);
    const auto extend = [&](int kind, const char* value) {
        const ExtensionHandle extension{X509V3_EXT_conf_nid(nullptr, nullptr, kind, value)};
        require(extension != nullptr && X509_add_ext(&certificate, extension.get(), -1) == 1,
                "a certificate's extension");
    };
    extend(NID_basic_constraints, authority ? "critical,CA:TRUE" : "critical,CA:FALSE");
    extend(NID_key_usage, authority ? "critical,keyCertSign" : "critical,digitalSignature");
    if (!authority) extend(NID_subject_alt_name, "DNS:mx.example.com");
    require(X509_sign(&certificate, &issuer_key, EVP_sha256()) != 0, "signing a certificate");
    return made;
}

/// Leaf, intermediate and root, as most mail hosts have them.
struct Chain {
    explicit Chain(bool rsa) {
        for (KeyHandle* each : {&root_key, &middle_key, &leaf_key}) {
            each->reset(rsa ? EVP_RSA_gen(2048) : EVP_EC_gen("P-256"));
            require(*each != nullptr, "making a key");
        }
        root = issue(*root_key, "Bench Root", *root_key, nullptr, true);
        middle = issue(*middle_key, "Bench Intermediate", *root_key, root.get(), true);
        leaf = issue(*leaf_key, host, *middle_key, middle.get(), false);
    }
    KeyHandle root_key, middle_key, leaf_key;
    CertificateHandle root, middle, leaf;
};

CertificateHandle copy_into(OSSL_LIB_CTX* library, const X509& certificate) {
    unsigned char* der = nullptr;
    const int bytes = i2d_X509(&certificate, &der);
    X509* blank = X509_new_ex(library, nullptr);
    const unsigned char* at = der;
    X509* read = d2i_X509(&blank, &at, bytes);
    OPENSSL_free(der);
    require(read != nullptr, "reading a certificate");
    return CertificateHandle{read};
}

SslCtxHandle server_context(OSSL_LIB_CTX* library, const Chain& chain, int version) {
    SslCtxHandle context{SSL_CTX_new_ex(library, nullptr, TLS_server_method())};
    require(context != nullptr, "a server's context");
    SSL_CTX_set_min_proto_version(context.get(), version);
    SSL_CTX_set_max_proto_version(context.get(), version);
    // The key through PEM, into this library: one that came from another takes a detour with each use.
    const BioHandle memory{BIO_new(BIO_s_mem())};
    PEM_write_bio_PKCS8PrivateKey(memory.get(), chain.leaf_key.get(), nullptr, nullptr, 0, nullptr,
                                  nullptr);
    const KeyHandle key{
        PEM_read_bio_PrivateKey_ex(memory.get(), nullptr, nullptr, nullptr, library, nullptr)};
    const CertificateHandle leaf = copy_into(library, *chain.leaf);
    const CertificateHandle middle = copy_into(library, *chain.middle);
    require(SSL_CTX_use_certificate(context.get(), leaf.get()) == 1 &&
                SSL_CTX_use_PrivateKey(context.get(), key.get()) == 1 &&
                SSL_CTX_add1_chain_cert(context.get(), middle.get()) == 1,
            "a server's certificate");
    return context;
}

std::string pem_of(X509& certificate) {
    const BioHandle memory{BIO_new(BIO_s_mem())};
    require(memory != nullptr && PEM_write_bio_X509(memory.get(), &certificate) == 1,
            "writing a certificate");
    char* text = nullptr;
    const long bytes = BIO_get_mem_data(memory.get(), &text);
    return {text, static_cast<std::size_t>(bytes)};
}

/// What a shard connects with where certificates are checked.
std::unique_ptr<ClientSet> relay_client(LibCtxPtr library, const Chain& chain) {
    ClientMaterial material;
    material.trusted_pem = {pem_of(*chain.root)};
    auto set = ClientSet::build(std::move(library), material);
    if (!set) throw std::runtime_error(set.error().text);
    return std::move(*set);
}

SslCtxHandle stock_client(const Chain& chain) {
    SslCtxHandle context{SSL_CTX_new(TLS_client_method())};
    require(context != nullptr, "a client's context");
    SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
    const CertificateHandle root = copy_into(nullptr, *chain.root);
    require(X509_STORE_add_cert(SSL_CTX_get_cert_store(context.get()), root.get()) == 1,
            "a client's trust");
    SSL_CTX_set_session_cache_mode(context.get(),
                                   SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    return context;
}

struct Cost {
    double client_us = 0, server_us = 0;
};

int remember(SSL* ssl, SSL_SESSION* session) {
    static_cast<SessionHandle*>(SSL_get_app_data(ssl))->reset(session);
    return 1;
}

/// One handshake, its ticket, and the close. `session` is offered, and replaced by the new one.
Cost shake(SSL_CTX& client_side, SSL_CTX& server_side, SessionHandle* session,
           bool expect_resumed) {
    SSL_CTX_sess_set_new_cb(&client_side, session != nullptr ? remember : nullptr);
    Cost cost;
    double from = cpu_us();
    SslHandle client{SSL_new(&client_side)};
    BIO* to_server = BIO_new(BIO_s_mem());
    BIO* to_client = BIO_new(BIO_s_mem());
    SSL_set_tlsext_host_name(client.get(), host);
    SSL_set1_host(client.get(), host);
    SSL_set_app_data(client.get(), session);
    if (session != nullptr && *session != nullptr) SSL_set_session(client.get(), session->get());
    BIO_up_ref(to_server);
    BIO_up_ref(to_client);
    SSL_set_bio(client.get(), to_client, to_server); // theirs: one reference of each
    SSL_set_connect_state(client.get());
    cost.client_us += cpu_us() - from;

    from = cpu_us();
    SslHandle server{SSL_new(&server_side)};
    SSL_set_bio(server.get(), to_server, to_client); // the other reference
    SSL_set_accept_state(server.get());
    cost.server_us += cpu_us() - from;
    for (int round = 0; round < 8; ++round) {
        from = cpu_us();
        const int client_done = SSL_do_handshake(client.get());
        cost.client_us += cpu_us() - from;
        from = cpu_us();
        const int server_done = SSL_do_handshake(server.get());
        cost.server_us += cpu_us() - from;
        if (client_done == 1 && server_done == 1) break;
    }
    require(SSL_is_init_finished(client.get()) == 1 && SSL_is_init_finished(server.get()) == 1,
            "a handshake");
    if ((SSL_session_reused(client.get()) == 1) != expect_resumed)
        throw std::runtime_error("a session was or was not resumed");
    std::array<char, 8> piece{};
    require(SSL_write(server.get(), "220", 3) == 3, "the greeting");
    from = cpu_us();
    require(SSL_read(client.get(), piece.data(), 3) == 3,
            "the greeting"); // and the tickets with it
    // Without it OpenSSL takes the connection for cut off, and forgets a TLS 1.2 session.
    SSL_set_shutdown(client.get(), SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    client.reset();
    cost.client_us += cpu_us() - from;
    return cost;
}

/// Two variants in turns, so that whatever disturbs the machine disturbs both.
struct Variant {
    std::function<double()> run; // microseconds of one operation
    bool relief = false;
};
std::array<double, 2> take_turns(const Variant& ours, const Variant& stock, double seconds) {
    constexpr int batch = 20;
    std::array<double, 2> total{};
    std::array<long, 2> count{};
    const double end = wall_us() + seconds * 1e6;
    for (bool warm = false; wall_us() < end || count[0] == 0; warm = true) {
        for (const std::size_t which : {std::size_t{0}, std::size_t{1}}) {
            const Variant& variant = which == 0 ? ours : stock;
            if (!variant.run) continue;
            end_relief();
            if (variant.relief) require(use_relief(Relief::on).active, "the relief");
            for (int i = 0; i < batch; ++i) {
                const double us = variant.run();
                if (!warm) continue; // fetches, tables, caches
                total[which] += us;
                ++count[which];
            }
        }
    }
    end_relief();
    return {count[0] > 0 ? total[0] / static_cast<double>(count[0]) : 0,
            count[1] > 0 ? total[1] / static_cast<double>(count[1]) : 0};
}

/// Microseconds that `openssl speed` takes for record_bytes of AES-256-GCM; 0 when it cannot be run.
double openssl_speed_us(double seconds) {
    const int whole = std::max(1, static_cast<int>(seconds));
    const std::string command = "openssl speed -mr -seconds " + std::to_string(whole) + " -bytes " +
                                std::to_string(record_bytes) + " -evp aes-256-gcm 2>/dev/null";
    struct Close {
        void operator()(FILE* pipe) const noexcept { pclose(pipe); }
    };
    const std::unique_ptr<FILE, Close> pipe{popen(command.c_str(), "r")};
    std::array<char, 256> line{};
    double bytes_per_s = 0;
    while (pipe != nullptr && std::fgets(line.data(), line.size(), pipe.get()) != nullptr) {
        const std::string text{line.data()}; // "+F:22:AES-256-GCM:5049393152.00"
        if (text.starts_with("+F:")) bytes_per_s = std::strtod(&text[text.rfind(':') + 1], nullptr);
    }
    return bytes_per_s > 0 ? static_cast<double>(record_bytes) / bytes_per_s * 1e6 : 0;
}

/// Times that this thread has gone to sleep of its own accord: with nothing else to wait for, for a lock.
long sleeps() {
    rusage used{};
    getrusage(RUSAGE_THREAD, &used);
    return used.ru_nvcsw;
}

} // namespace

std::vector<Row> handshakes(double seconds) {
    std::vector<Row> rows;
    const LibCtxPtr library{OSSL_LIB_CTX_new(), OSSL_LIB_CTX_free};
    for (const bool rsa : {true, false}) {
        const Chain chain{rsa};
        for (const int version : {TLS1_3_VERSION, TLS1_2_VERSION}) {
            const std::string suffix =
                std::string{version == TLS1_3_VERSION ? "_tls13" : "_tls12"} +
                (rsa ? "_rsa2048" : "_p256");
            const SslCtxHandle server = server_context(nullptr, chain, version);
            const std::unique_ptr<ClientSet> set = relay_client(library, chain);
            SSL_CTX& ours = *set->verified;
            const SslCtxHandle stock = stock_client(chain);
            const auto full = [&](SSL_CTX* client) {
                return
                    [&server, client] { return shake(*client, *server, nullptr, false).client_us; };
            };
            const auto us = take_turns({full(&ours), true}, {full(stock.get()), false}, seconds);
            rows.push_back({"client_full" + suffix, "-", us[0], us[1], rsa ? 0.65 : 0, 0});

            SessionHandle our_session, stock_session;
            static_cast<void>(shake(ours, *server, &our_session, false));
            static_cast<void>(shake(*stock, *server, &stock_session, false));
            const auto again = [&](SSL_CTX* client, SessionHandle* session) {
                return [&server, client, session] {
                    return shake(*client, *server, session, true).client_us;
                };
            };
            const auto resumed = take_turns({again(&ours, &our_session), true},
                                            {again(stock.get(), &stock_session), false}, seconds);
            rows.push_back({"client_resumed" + suffix, "-", resumed[0], resumed[1], 0,
                            version == TLS1_3_VERSION ? 150.0 : 0.0});
        }
    }
    return rows;
}

std::vector<Row> bulk(double seconds) {
    const Chain chain{false};
    const SslCtxHandle server = server_context(nullptr, chain, TLS1_3_VERSION);
    const std::unique_ptr<ClientSet> client = relay_client(nullptr, chain);
    SSL_CTX_set_ciphersuites(client->verified.get(), "TLS_AES_256_GCM_SHA384");
    const SslHandle sender{SSL_new(client->verified.get())};
    const SslHandle receiver{SSL_new(server.get())};
    BIO* to_server = BIO_new(BIO_s_mem());
    BIO* to_client = BIO_new(BIO_s_mem());
    SSL_set1_host(sender.get(), host);
    BIO_up_ref(to_server);
    BIO_up_ref(to_client);
    SSL_set_bio(sender.get(), to_client, to_server);
    SSL_set_bio(receiver.get(), to_server, to_client);
    SSL_set_connect_state(sender.get());
    SSL_set_accept_state(receiver.get());
    for (int round = 0; round < 8; ++round) {
        static_cast<void>(SSL_do_handshake(sender.get()));
        static_cast<void>(SSL_do_handshake(receiver.get()));
    }
    require(SSL_is_init_finished(sender.get()) == 1, "a handshake");
    SSL_set0_wbio(sender.get(), BIO_new(BIO_s_null()));     // records are made, and not kept
    SSL_clear_mode(sender.get(), SSL_MODE_RELEASE_BUFFERS); // full records: see connection.cc

    std::vector<unsigned char> plain(record_bytes, 'm');
    std::vector<unsigned char> sealed(record_bytes + 64);
    const std::unique_ptr<EVP_CIPHER_CTX, Release<EVP_CIPHER_CTX_free>> cipher{
        EVP_CIPHER_CTX_new()};
    const std::array<unsigned char, 32> key{1};
    std::array<unsigned char, 12> nonce{};
    require(
        EVP_EncryptInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, key.data(), nonce.data()) == 1,
        "AES-256-GCM");
    // Many for one look at the clock, which is a system call, as `openssl speed` has it too.
    const auto each_of = [](const auto& seal) {
        constexpr int records = 32;
        const double from = cpu_us();
        for (int i = 0; i < records; ++i)
            seal();
        return (cpu_us() - from) / records;
    };
    const auto evp = [&] {
        int bytes = 0, tail = 0;
        std::array<unsigned char, 16> tag{};
        ++nonce[0];
        require(EVP_EncryptInit_ex(cipher.get(), nullptr, nullptr, nullptr, nonce.data()) == 1 &&
                    EVP_EncryptUpdate(cipher.get(), sealed.data(), &bytes, plain.data(),
                                      static_cast<int>(plain.size())) == 1 &&
                    EVP_EncryptFinal_ex(cipher.get(), sealed.data() + bytes, &tail) == 1 &&
                    EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_AEAD_GET_TAG, 16, tag.data()) == 1,
                "AES-256-GCM");
    };
    const auto tls = [&] {
        std::size_t written = 0;
        require(SSL_write_ex(sender.get(), plain.data(), plain.size(), &written) == 1, "writing");
    };
    const auto us = take_turns({[&] { return each_of(tls); }, false},
                               {[&] { return each_of(evp); }, false}, seconds);
    std::vector<Row> rows{{"tls_bulk_aes256gcm_16k_evp", "-", us[0], us[1], 0, 0}};
    if (const double speed = openssl_speed_us(seconds); speed > 0)
        rows.push_back({"tls_bulk_aes256gcm_16k", "-", us[0], speed, 1.10, 0});
    return rows;
}

void write_rsa_pair(unsigned bits, const std::string& certificate_file,
                    const std::string& key_file) {
    const KeyHandle key{EVP_RSA_gen(bits)};
    require(key != nullptr, "making a key");
    const CertificateHandle certificate = issue(*key, host, *key, nullptr, false);
    const BioHandle chain{BIO_new_file(certificate_file.c_str(), "w")};
    const BioHandle secret{BIO_new_file(key_file.c_str(), "w")};
    require(chain != nullptr && secret != nullptr &&
                PEM_write_bio_X509(chain.get(), certificate.get()) == 1 &&
                PEM_write_bio_PKCS8PrivateKey(secret.get(), key.get(), nullptr, nullptr, 0, nullptr,
                                              nullptr) == 1,
            "writing a certificate");
}

double ed25519_us(const std::string& pem, double seconds) {
    const BioHandle text{BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()))};
    const KeyHandle key{PEM_read_bio_PrivateKey(text.get(), nullptr, refuse_pass_phrase, nullptr)};
    require(key != nullptr, "reading a key");
    const std::array<unsigned char, 32> digest{};
    long count = 0;
    const double begin = wall_us();
    for (; wall_us() < begin + seconds * 1e6; ++count) {
        const std::unique_ptr<EVP_MD_CTX, Release<EVP_MD_CTX_free>> context{EVP_MD_CTX_new()};
        std::array<unsigned char, 64> signature;
        std::size_t bytes = signature.size();
        require(EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key.get()) == 1 &&
                    EVP_DigestSign(context.get(), signature.data(), &bytes, digest.data(),
                                   digest.size()) == 1,
                "signing");
    }
    return (wall_us() - begin) / static_cast<double>(count);
}

std::vector<Contention> contention(double seconds) {
    struct Rate {
        double per_s, waits_per_1000;
    };
    const Chain chain{true};
    const auto measure = [&](std::size_t threads, bool own_library) {
        std::atomic<long> count{0}, slept{0};
        std::atomic<std::size_t> ready{0};
        std::atomic<bool> failed{false};
        const auto work = [&] {
            try {
                LibCtxPtr library;
                if (own_library) library = {OSSL_LIB_CTX_new(), OSSL_LIB_CTX_free};
                const SslCtxHandle server = server_context(library.get(), chain, TLS1_3_VERSION);
                const std::unique_ptr<ClientSet> set = relay_client(library, chain);
                SSL_CTX& client = *set->verified;
                for (int i = 0; i < 20; ++i)
                    static_cast<void>(shake(client, *server, nullptr, false));
                ++ready;
                while (ready < threads)
                    std::this_thread::yield();
                long mine = 0;
                const long before = sleeps();
                const double begin = wall_us();
                do { // once at least, however late this thread is let run: a rate of 0 has no inverse
                    static_cast<void>(shake(client, *server, nullptr, false));
                    ++mine;
                } while (wall_us() < begin + seconds * 1e6);
                count += mine;
                slept += sleeps() - before;
            } catch (const std::exception&) { // told below: threads have nobody to throw to
                failed = true;
                ++ready;
            }
        };
        std::vector<std::thread> all;
        for (std::size_t i = 0; i < threads; ++i)
            all.emplace_back(work);
        for (std::thread& each : all)
            each.join();
        require(!failed, "handshakes on threads");
        return Rate{static_cast<double>(count) / seconds,
                    1000.0 * static_cast<double>(slept) /
                        std::max(1.0, static_cast<double>(count))};
    };
    std::vector<Contention> rows;
    for (const bool relief : {true, false}) {
        end_relief();
        if (relief) require(use_relief(Relief::on).active, "the relief");
        for (const bool own : {true, false}) {
            const Rate one = measure(1, own), two = measure(2, own);
            rows.push_back({std::string{relief ? "relief" : "stock"} +
                                (own ? ", a library for each thread" : ", one library"),
                            one.per_s, two.per_s, two.waits_per_1000});
        }
    }
    end_relief();
    return rows;
}

} // namespace tls_offload::bench
