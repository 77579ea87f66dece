#include "control/accounts.h"

#include "control/notation.h"
#include "control/password.h"

#include <algorithm>
#include <chrono>
#include <sqlite3.h>
#include <sys/stat.h>
#include <utility>

namespace control {
namespace {

constexpr std::size_t account_name_bytes_max = 128;
constexpr std::size_t sender_domains_max = 1000;
constexpr int busy_limit_ms = 5000; // millracectl and the daemon may write at the same time
constexpr std::size_t certificates_max = 100; // of one account
constexpr std::size_t credential_bytes_max = 1024;
constexpr int schema_version = 2;

constexpr const char* schema_text =
    "CREATE TABLE accounts ("
    "  name TEXT PRIMARY KEY, hash TEXT NOT NULL, enabled INTEGER NOT NULL, generation INTEGER NOT "
    "NULL,"
    "  tenant TEXT NOT NULL, source TEXT NOT NULL, sender_domains TEXT NOT NULL,"
    "  messages_per_hour_max INTEGER NOT NULL, created_s INTEGER NOT NULL, changed_s INTEGER NOT "
    "NULL) STRICT;"
    "CREATE TABLE last_generation (value INTEGER NOT NULL) STRICT;"
    "INSERT INTO last_generation VALUES (0);";
// From version 1 on; a new file goes through it, too.
constexpr const char* certificates_text =
    "ALTER TABLE accounts ADD COLUMN certificates TEXT NOT NULL DEFAULT '';"
    "PRAGMA user_version = 2;";

constexpr char certificate_separator = '\n'; // in none of them

constexpr const char* columns = "name, enabled, generation, tenant, source, sender_domains, "
                                "messages_per_hour_max, created_s, changed_s, certificates";

std::int64_t now_s() {
    return std::chrono::duration_cast<std::chrono::seconds>(
               std::chrono::system_clock::now().time_since_epoch())
        .count();
}

std::string joined(const std::vector<std::string>& parts, char separator) {
    std::string text;
    for (const std::string& part : parts) {
        if (!text.empty()) text += separator;
        text += part;
    }
    return text;
}

std::vector<std::string> split(std::string_view text, char separator) {
    std::vector<std::string> parts;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find(separator), text.size());
        if (end > 0) parts.emplace_back(text.substr(0, end));
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return parts;
}

AccountFailure unknown(std::string_view name) {
    return {AccountError::unknown, "there is no account " + in_quotes(name)};
}

std::optional<AccountFailure> refuse(Account& account) {
    account.name = lower(account.name);
    if (!is_account_name(account.name)) {
        return AccountFailure{AccountError::bad_value,
                              in_quotes(account.name) +
                                  " is no account name: at most 128 of a-z 0-9 . _ @ + - are"};
    }
    if (!account.tenant.empty() && !is_name(account.tenant)) {
        return AccountFailure{AccountError::bad_value,
                              in_quotes(account.tenant) +
                                  " is no tenant name: letters, digits, - _ . are"};
    }
    if (!account.source.empty() && !is_name(account.source)) {
        return AccountFailure{AccountError::bad_value,
                              in_quotes(account.source) + " is no source or pool name"};
    }
    if (account.sender_domains.size() > sender_domains_max) {
        return AccountFailure{AccountError::bad_value,
                              "an account has at most 1000 sender domains"};
    }
    for (std::string& domain : account.sender_domains) {
        domain = lower(domain);
        if (!is_host_name(domain))
            return AccountFailure{AccountError::bad_value, in_quotes(domain) + " is no domain"};
    }
    return std::nullopt;
}

} // namespace

std::optional<std::string> certificate_credential(std::string_view text) {
    const std::size_t colon = text.find(':');
    if (colon == std::string_view::npos || text.size() > credential_bytes_max) return std::nullopt;
    const std::string kind = lower(text.substr(0, colon));
    const std::string_view value = text.substr(colon + 1);
    const bool printable = std::ranges::all_of(
        value, [](char byte) { return static_cast<unsigned char>(byte) >= ' ' && byte != 0x7f; });
    if (value.empty() || !printable) return std::nullopt;
    if (kind == "subject") return "subject:" + std::string{value};
    if (kind == "name") {
        const std::size_t at = value.find('@');
        const std::string_view host = at == std::string_view::npos ? value : value.substr(at + 1);
        if (at == 0 || !is_host_name(host)) return std::nullopt;
        return "name:" + lower(value);
    }
    if (kind != "sha256") return std::nullopt;
    std::string digits;
    for (const char byte : lower(value)) {
        if (byte == ':') continue;
        if ((byte < '0' || byte > '9') && (byte < 'a' || byte > 'f')) return std::nullopt;
        digits += byte;
    }
    if (digits.size() != 64) return std::nullopt;
    return "sha256:" + digits;
}

bool is_account_name(std::string_view name) noexcept {
    return !name.empty() && name.size() <= account_name_bytes_max &&
           std::all_of(name.begin(), name.end(), [](char byte) {
               return (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') || byte == '.' ||
                      byte == '_' || byte == '@' || byte == '+' || byte == '-';
           });
}

/// One prepared statement; parameters are bound in order.
class AccountStore::Statement {
public:
    Statement(sqlite3* database, const std::string& text) {
        if (sqlite3_prepare_v2(database, text.c_str(), -1, &statement_, nullptr) != SQLITE_OK)
            statement_ = nullptr;
    }
    ~Statement() { sqlite3_finalize(statement_); }
    Statement(const Statement&) = delete;
    Statement& operator=(const Statement&) = delete;

    Statement& bind(std::string_view text) {
        // A null pointer would bind NULL; the text outlives the statement in every use here.
        sqlite3_bind_text(statement_, ++bound_, text.empty() ? "" : text.data(),
                          static_cast<int>(text.size()), SQLITE_STATIC);
        return *this;
    }
    Statement& bind(std::int64_t number) {
        sqlite3_bind_int64(statement_, ++bound_, number);
        return *this;
    }
    /// SQLITE_ROW, SQLITE_DONE, or what went wrong.
    int step() { return statement_ == nullptr ? SQLITE_ERROR : sqlite3_step(statement_); }
    [[nodiscard]] std::string text(int column) const {
        const auto* bytes = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
        return bytes == nullptr ? std::string{}
                                : std::string(bytes, static_cast<std::size_t>(
                                                         sqlite3_column_bytes(statement_, column)));
    }
    [[nodiscard]] std::int64_t number(int column) const {
        return sqlite3_column_int64(statement_, column);
    }
    [[nodiscard]] Account account() const { // of `columns`
        return {text(0),
                number(1) != 0,
                static_cast<std::uint64_t>(number(2)),
                text(3),
                text(4),
                split(text(5), ' '),
                static_cast<std::uint32_t>(number(6)),
                number(7),
                number(8),
                split(text(9), certificate_separator)};
    }

private:
    sqlite3_stmt* statement_ = nullptr;
    int bound_ = 0;
};

/// Rolls back unless committed. IMMEDIATE: two writers queue up instead of failing half-way.
class AccountStore::Transaction {
public:
    explicit Transaction(sqlite3* database) : database_(database) {
        open_ = sqlite3_exec(database_, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr) == SQLITE_OK;
    }
    ~Transaction() {
        if (open_) sqlite3_exec(database_, "ROLLBACK", nullptr, nullptr, nullptr);
    }
    Transaction(const Transaction&) = delete;
    Transaction& operator=(const Transaction&) = delete;
    [[nodiscard]] bool open() const noexcept { return open_; }
    [[nodiscard]] bool commit() {
        if (sqlite3_exec(database_, "COMMIT", nullptr, nullptr, nullptr) != SQLITE_OK) return false;
        open_ = false;
        return true;
    }

private:
    sqlite3* database_;
    bool open_;
};

AccountResult<std::unique_ptr<AccountStore>> AccountStore::open(const std::string& path) {
    // SQLite makes its files with the process's umask; hashes are nobody else's business, not for a
    // moment.
    const mode_t mask = umask(0077);
    sqlite3* database = nullptr;
    const int opened = sqlite3_open_v2(
        path.c_str(), &database, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX,
        nullptr);
    std::unique_ptr<AccountStore> store(
        new AccountStore(database)); // its destructor closes, also after a failure
    const auto failed = [&] {
        umask(mask);
        AccountFailure failure = store->storage_failure();
        failure.text = path + ": " + failure.text;
        return std::unexpected(std::move(failure));
    };
    if (opened != SQLITE_OK) return failed();
    sqlite3_busy_timeout(database, busy_limit_ms);
    // FULL: an account that was reported as added is there after a power cut.
    if (sqlite3_exec(database, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;", nullptr,
                     nullptr, nullptr) != SQLITE_OK) {
        return failed();
    }
    {
        Transaction transaction(database);
        Statement version(database, "PRAGMA user_version");
        if (!transaction.open() || version.step() != SQLITE_ROW) return failed();
        const std::int64_t found = version.number(0);
        if (found > schema_version) {
            umask(mask);
            return std::unexpected(
                AccountFailure{AccountError::storage, path + " was made by a later release"});
        }
        if (found == 0 &&
            sqlite3_exec(database, schema_text, nullptr, nullptr, nullptr) != SQLITE_OK)
            return failed();
        if (found < schema_version &&
            sqlite3_exec(database, certificates_text, nullptr, nullptr, nullptr) != SQLITE_OK)
            return failed();
        // The statement is reset first: an open reader would keep the commit from finishing.
        version.step();
        if (!transaction.commit()) return failed();
    }
    umask(mask);
    chmod(path.c_str(), 0600); // also when somebody made it with another mode
    return store;
}

AccountStore::~AccountStore() {
    sqlite3_close_v2(database_);
}

AccountFailure AccountStore::storage_failure() const {
    return {AccountError::storage,
            std::string{"the account database says: "} + sqlite3_errmsg(database_)};
}

AccountResult<std::uint64_t> AccountStore::raise_generation() {
    Statement raise(database_, "UPDATE last_generation SET value = value + 1 RETURNING value");
    if (raise.step() != SQLITE_ROW) return std::unexpected(storage_failure());
    const auto generation = static_cast<std::uint64_t>(raise.number(0));
    if (raise.step() != SQLITE_DONE) return std::unexpected(storage_failure());
    return generation;
}

AccountResult<Account> AccountStore::add(Account account, std::string_view password) {
    if (auto bad = refuse(account)) return std::unexpected(std::move(*bad));
    if (auto weak = password_weakness(account.name, password)) {
        return std::unexpected(AccountFailure{AccountError::weak_password, std::move(*weak)});
    }
    const auto hash = hash_password(password);
    if (!hash)
        return std::unexpected(
            AccountFailure{AccountError::storage, "there is no memory to hash the password"});

    const std::lock_guard hold(lock_);
    Transaction transaction(database_);
    if (!transaction.open()) return std::unexpected(storage_failure());
    const auto there = find_locked(account.name);
    if (!there) return std::unexpected(there.error());
    if (*there)
        return std::unexpected(AccountFailure{
            AccountError::exists, "the account " + in_quotes(account.name) + " is there already"});
    const auto generation = raise_generation();
    if (!generation) return std::unexpected(generation.error());
    account.generation = *generation;
    account.created_s = account.changed_s = now_s();
    const std::string domains = joined(account.sender_domains, ' ');
    Statement insert(database_, "INSERT INTO accounts (hash, " + std::string{columns} +
                                    ") VALUES (?,?,?,?,?,?,?,?,?,?,'')");
    insert.bind(*hash)
        .bind(account.name)
        .bind(account.enabled ? 1 : 0)
        .bind(static_cast<std::int64_t>(account.generation));
    insert.bind(account.tenant)
        .bind(account.source)
        .bind(domains)
        .bind(account.messages_per_hour_max);
    insert.bind(account.created_s).bind(account.changed_s);
    if (insert.step() != SQLITE_DONE || !transaction.commit())
        return std::unexpected(storage_failure());
    return account;
}

AccountResult<Account> AccountStore::set_password(std::string_view name,
                                                  std::string_view password) {
    const std::string low = lower(name);
    if (auto weak = password_weakness(low, password)) {
        return std::unexpected(AccountFailure{AccountError::weak_password, std::move(*weak)});
    }
    const auto hash = hash_password(password);
    if (!hash)
        return std::unexpected(
            AccountFailure{AccountError::storage, "there is no memory to hash the password"});

    const std::lock_guard hold(lock_);
    Transaction transaction(database_);
    if (!transaction.open()) return std::unexpected(storage_failure());
    auto account = find_locked(low);
    if (!account) return std::unexpected(account.error());
    if (!*account) return std::unexpected(unknown(low));
    const auto generation = raise_generation();
    if (!generation) return std::unexpected(generation.error());
    (*account)->generation = *generation;
    (*account)->changed_s = now_s();
    Statement update(database_,
                     "UPDATE accounts SET hash = ?, generation = ?, changed_s = ? WHERE name = ?");
    update.bind(*hash)
        .bind(static_cast<std::int64_t>(*generation))
        .bind((*account)->changed_s)
        .bind(low);
    if (update.step() != SQLITE_DONE || !transaction.commit())
        return std::unexpected(storage_failure());
    return std::move(**account);
}

AccountResult<Account> AccountStore::set_enabled(std::string_view name, bool enabled) {
    const std::string low = lower(name);
    const std::lock_guard hold(lock_);
    Transaction transaction(database_);
    if (!transaction.open()) return std::unexpected(storage_failure());
    auto account = find_locked(low);
    if (!account) return std::unexpected(account.error());
    if (!*account) return std::unexpected(unknown(low));
    const auto generation = raise_generation();
    if (!generation) return std::unexpected(generation.error());
    (*account)->enabled = enabled;
    (*account)->generation = *generation;
    (*account)->changed_s = now_s();
    Statement update(
        database_, "UPDATE accounts SET enabled = ?, generation = ?, changed_s = ? WHERE name = ?");
    update.bind(enabled ? 1 : 0)
        .bind(static_cast<std::int64_t>(*generation))
        .bind((*account)->changed_s)
        .bind(low);
    if (update.step() != SQLITE_DONE || !transaction.commit())
        return std::unexpected(storage_failure());
    return std::move(**account);
}

AccountResult<Account> AccountStore::set_certificates(std::string_view name,
                                                      std::vector<std::string> certificates) {
    const std::string low = lower(name);
    if (certificates.size() > certificates_max) {
        return std::unexpected(
            AccountFailure{AccountError::bad_value, "an account has at most 100 certificates"});
    }
    for (std::string& certificate : certificates) {
        auto credential = certificate_credential(certificate);
        if (!credential) {
            return std::unexpected(AccountFailure{
                AccountError::bad_value,
                in_quotes(certificate) + " stands for no certificate; write sha256:FINGERPRINT, "
                                         "name:HOST, name:ADDRESS or subject:NAME"});
        }
        certificate = std::move(*credential);
    }
    std::ranges::sort(certificates);
    certificates.erase(std::unique(certificates.begin(), certificates.end()), certificates.end());
    const auto accounts = list();
    if (!accounts) return std::unexpected(accounts.error());
    const std::lock_guard hold(lock_);
    Transaction transaction(database_);
    if (!transaction.open()) return std::unexpected(storage_failure());
    auto account = find_locked(low);
    if (!account) return std::unexpected(account.error());
    if (!*account) return std::unexpected(unknown(low));
    for (const Account& other : *accounts) {
        if (other.name == low) continue;
        for (const std::string& certificate : certificates) {
            if (std::ranges::find(other.certificates, certificate) == other.certificates.end())
                continue;
            return std::unexpected(
                AccountFailure{AccountError::exists, in_quotes(certificate) + " is the account " +
                                                         in_quotes(other.name) + " already"});
        }
    }
    const auto generation = raise_generation();
    if (!generation) return std::unexpected(generation.error());
    (*account)->generation = *generation;
    (*account)->changed_s = now_s();
    (*account)->certificates = certificates;
    const std::string text = joined(certificates, certificate_separator);
    Statement update(
        database_,
        "UPDATE accounts SET certificates = ?, generation = ?, changed_s = ? WHERE name = ?");
    update.bind(text)
        .bind(static_cast<std::int64_t>(*generation))
        .bind((*account)->changed_s)
        .bind(low);
    if (update.step() != SQLITE_DONE || !transaction.commit())
        return std::unexpected(storage_failure());
    return std::move(**account);
}

AccountResult<Account> AccountStore::remove(std::string_view name) {
    const std::string low = lower(name);
    const std::lock_guard hold(lock_);
    Transaction transaction(database_);
    if (!transaction.open()) return std::unexpected(storage_failure());
    auto account = find_locked(low);
    if (!account) return std::unexpected(account.error());
    if (!*account) return std::unexpected(unknown(low));
    const auto generation = raise_generation();
    if (!generation) return std::unexpected(generation.error());
    (*account)->generation = *generation;
    Statement erase(database_, "DELETE FROM accounts WHERE name = ?");
    erase.bind(low);
    if (erase.step() != SQLITE_DONE || !transaction.commit())
        return std::unexpected(storage_failure());
    return std::move(**account);
}

AccountResult<std::vector<Account>> AccountStore::list() const {
    const std::lock_guard hold(lock_);
    std::vector<Account> accounts;
    Statement select(database_, "SELECT " + std::string{columns} + " FROM accounts ORDER BY name");
    int step = select.step();
    for (; step == SQLITE_ROW; step = select.step())
        accounts.push_back(select.account());
    if (step != SQLITE_DONE) return std::unexpected(storage_failure());
    return accounts;
}

AccountResult<std::optional<Account>> AccountStore::find(std::string_view name) const {
    const std::lock_guard hold(lock_);
    return find_locked(lower(name));
}

AccountResult<std::optional<Account>> AccountStore::find_locked(std::string_view name) const {
    Statement select(database_, "SELECT " + std::string{columns} + " FROM accounts WHERE name = ?");
    select.bind(name);
    const int step = select.step();
    if (step == SQLITE_DONE) return std::optional<Account>{};
    if (step != SQLITE_ROW) return std::unexpected(storage_failure());
    return std::optional{select.account()};
}

AccountResult<std::optional<Credential>> AccountStore::credential(std::string_view name) const {
    const std::string low = lower(name);
    const std::lock_guard hold(lock_);
    Statement select(database_, "SELECT hash, generation, enabled FROM accounts WHERE name = ?");
    select.bind(low);
    const int step = select.step();
    if (step == SQLITE_DONE) return std::optional<Credential>{};
    if (step != SQLITE_ROW) return std::unexpected(storage_failure());
    return std::optional{Credential{select.text(0), static_cast<std::uint64_t>(select.number(1)),
                                    select.number(2) != 0}};
}

AccountResult<std::uint64_t> AccountStore::last_generation() const {
    const std::lock_guard hold(lock_);
    Statement select(database_, "SELECT value FROM last_generation");
    if (select.step() != SQLITE_ROW) return std::unexpected(storage_failure());
    return static_cast<std::uint64_t>(select.number(0));
}

} // namespace control
