// accounts.h: who may send: names, Argon2id hashes and what each account may do, in SQLite.
//
// Scope      Add, change, list, remove, and the hash of one account for verification. Each change
//            raises the account's generation above every generation there ever was, so that a
//            cached login of before is void even when an account is removed and made again.
// Owns       The database connection. The file is accounts.db in state_dir, mode 0600, write-ahead
//            logged.
// Threading  Any: one lock around the connection; hashing happens outside of it.
// Failure    AccountFailure with a sentence for the operator.
#pragma once

#include <cstdint>
#include <expected>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

struct sqlite3;
struct sqlite3_stmt;

namespace control {

enum class AccountError : std::uint8_t { exists, unknown, bad_value, weak_password, storage };

struct AccountFailure {
    AccountError error;
    std::string text;
};
template <class T>
using AccountResult = std::expected<T, AccountFailure>;

struct Account {
    std::string name; // lower case
    bool enabled = true;
    std::uint64_t generation = 0;
    std::string tenant;
    std::string source;                        // source or pool; empty: the route's
    std::vector<std::string> sender_domains;   // lower case; empty: any
    std::uint32_t messages_per_hour_max = 0;   // 0: unlimited
    std::int64_t created_s = 0, changed_s = 0; // Unix time
    // Client certificates that are this account: see certificate_credential().
    std::vector<std::string> certificates;
};

struct Credential {
    std::string hash;
    std::uint64_t generation = 0;
    bool enabled = false;
};

/// Lower case, at most 128 of [a-z0-9._@+-]: what AUTH carries and what stands in logs.
[[nodiscard]] bool is_account_name(std::string_view name) noexcept;

/// The stored form of what stands for a client certificate, or nothing when the text is no such
/// thing: "sha256:" and 64 hexadecimal digits (colons between them are left out), "name:" and a host
/// name or mail address of the certificate, "subject:" and its subject as RFC 2253 writes it.
[[nodiscard]] std::optional<std::string> certificate_credential(std::string_view text);

class AccountStore {
public:
    /// Opens or makes the database.
    [[nodiscard]] static AccountResult<std::unique_ptr<AccountStore>> open(const std::string& path);
    ~AccountStore();
    AccountStore(const AccountStore&) = delete;
    AccountStore& operator=(const AccountStore&) = delete;

    /// Adds `account` (its generation and times are set here). Returns it as stored.
    [[nodiscard]] AccountResult<Account> add(Account account, std::string_view password);
    [[nodiscard]] AccountResult<Account> set_password(std::string_view name,
                                                      std::string_view password);
    [[nodiscard]] AccountResult<Account> set_enabled(std::string_view name, bool enabled);
    /// These instead of the account's certificates of before. No two accounts have one in common.
    [[nodiscard]] AccountResult<Account> set_certificates(std::string_view name,
                                                          std::vector<std::string> certificates);
    /// Returns what was removed, with the generation of its removal.
    [[nodiscard]] AccountResult<Account> remove(std::string_view name);

    [[nodiscard]] AccountResult<std::vector<Account>> list() const; // by name
    [[nodiscard]] AccountResult<std::optional<Account>> find(std::string_view name) const;
    [[nodiscard]] AccountResult<std::optional<Credential>> credential(std::string_view name) const;
    /// Raised by every change, also those of other processes on the same file.
    [[nodiscard]] AccountResult<std::uint64_t> last_generation() const;

private:
    explicit AccountStore(sqlite3* database) noexcept : database_(database) {}
    class Statement;
    class Transaction;
    [[nodiscard]] AccountFailure storage_failure() const;
    [[nodiscard]] AccountResult<std::uint64_t> raise_generation();
    [[nodiscard]] AccountResult<std::optional<Account>> find_locked(std::string_view name) const;

    mutable std::mutex lock_;
    sqlite3* database_; // closed by the destructor
};

} // namespace control
