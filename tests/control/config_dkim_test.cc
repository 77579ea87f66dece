// config_dkim_test.cc: [[dkim]] tables, what is told of mistakes in them, and of the key files that they name.

#include "control/config.h"
#include "control/policy_compiler.h"
#include "dataplane/policy/snapshot.h"
#include "tests/control/temp_folder.h"

#include <filesystem>
#include <gtest/gtest.h>
#include <span>
#include <string>
#include <vector>

namespace control {
namespace {

constexpr std::string_view minimal =
    "[server]\nhostname = \"relay.example.com\"\n"
    "[[listener]]\nname = \"in\"\naddress = \"127.0.0.1:587\"\nkind = \"submission\"\n";
constexpr std::string_view seed =
    "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=\n"; // RFC 8463 appendix A.1

std::string dkim(std::string_view rest) {
    return std::string{minimal} + "[[dkim]]\n" + std::string{rest};
}

std::string error_of(std::string_view rest) {
    const auto errors = parse_config(dkim(rest), "m.toml").errors;
    return errors.empty() ? "" : errors.front().to_string();
}

constexpr std::string_view good = "domains = [\"a.example\"]\nselector = \"s1\"\nkey = \"k\"\n";

TEST(ConfigDkim, DefaultsAreRelaxedAndOversignWhatReadersSee) {
    const Config config = parse_config(dkim(good), "/etc/m.toml").config;
    ASSERT_EQ(config.policy.dkim.size(), 1U);
    const schema::DkimT& table = *config.policy.dkim[0];
    EXPECT_EQ(table.key_file, "/etc/k");
    EXPECT_EQ(table.header_form, schema::DkimForm::relaxed);
    EXPECT_EQ(table.body_form, schema::DkimForm::relaxed);
    EXPECT_EQ(table.on_failure, schema::DkimFailure::defer);
    EXPECT_EQ(table.headers.front(), "From");
    EXPECT_EQ(table.oversign.size(), 10U);
    EXPECT_EQ(config.dkim_lines, std::vector<unsigned>{10U});
}

TEST(ConfigDkim, EveryPairOfFormsIsRead) {
    for (const auto& [text, header, body] :
         {std::tuple{"relaxed/relaxed", schema::DkimForm::relaxed, schema::DkimForm::relaxed},
          std::tuple{"relaxed/simple", schema::DkimForm::relaxed, schema::DkimForm::simple},
          std::tuple{"simple/relaxed", schema::DkimForm::simple, schema::DkimForm::relaxed},
          std::tuple{"simple/simple", schema::DkimForm::simple, schema::DkimForm::simple}}) {
        const Config config =
            parse_config(dkim(std::string{good} + "canonicalization = \"" + text + "\"\n"),
                         "m.toml")
                .config;
        EXPECT_EQ(config.policy.dkim[0]->header_form, header) << text;
        EXPECT_EQ(config.policy.dkim[0]->body_form, body) << text;
    }
}

TEST(ConfigDkim, MistakesAreToldWithFileLineKeyAndRemedy) {
    const std::string text{good};
    EXPECT_EQ(error_of(text), "");
    EXPECT_EQ(error_of("domains = []\nselector = \"s\"\nkey = \"k\"\n"),
              "m.toml:8: dkim.domains: expected at least one; write domains = [\"example.com\"]");
    EXPECT_NE(error_of("domains = [\"*\"]\nselector = \"s\"\nkey = \"k\"\n")
                  .find("write key = \"dkim/%d/%s.key\""),
              std::string::npos);
    EXPECT_NE(error_of("domains = [\"*\", \"a.example\"]\nselector = \"s\"\nkey = \"%d\"\n")
                  .find("remove the others"),
              std::string::npos);
    EXPECT_EQ(error_of("domains = [\"a.example\"]\nselector = \"s s\"\nkey = \"k\"\n")
                  .find("m.toml:9: dkim.selector: "),
              0U);
    EXPECT_NE(error_of(text + "headers = [\"Subject\", \"received\"]\noversign = []\n")
                  .find("changes on the way"),
              std::string::npos);
    EXPECT_NE(error_of(text + "oversign = [\"X-Other\"]\n").find("add it to headers"),
              std::string::npos);
    EXPECT_NE(error_of(text + "headers = [\"a b\"]\n"), "");
    EXPECT_NE(error_of("domains = [\"a.example\", \"b.example\"]\nselector = \"s\"\nkey = "
                       "\"k\"\nscope = \"always\"\n")
                  .find("one domain"),
              std::string::npos);
    for (const std::string_view identity :
         {"joe", "@other.example", "@xa.example", "a@b@a.example", "a;b@a.example"})
        EXPECT_NE(
            error_of(text + "identity = \"" + std::string{identity} + "\"\n").find("below it"),
            std::string::npos)
            << identity;
    for (const std::string_view identity : {"@a.example", "@%d", "joe@news.%d"})
        EXPECT_EQ(error_of(text + "identity = \"" + std::string{identity} + "\"\n"), "")
            << identity;
    const auto warnings = parse_config(dkim(text + "expire_after = \"1h\"\n"), "m.toml").warnings;
    ASSERT_EQ(warnings.size(), 1U);
    EXPECT_NE(warnings[0].find("shorter than retry.expiry"), std::string::npos);
}

TEST(ConfigDkim, KeyFilesAreCheckedAndNamedWithTheLine) {
    const tests::TempFolder folder;
    folder.write("good", seed);
    std::filesystem::permissions(folder.file("good"), std::filesystem::perms{0600});
    folder.write("bad", "no key");
    const std::string text =
        dkim("domains = [\"a.example\"]\nselector = \"s\"\nkey = \"good\"\n"
             "[[dkim]]\ndomains = [\"b.example\"]\nselector = \"s\"\nkey = \"bad\"\n");
    const ConfigResult result = parse_config(text, folder.file("m.toml"));
    ASSERT_TRUE(result.errors.empty());
    std::vector<std::string> warnings;
    const auto errors = check_dkim_keys(result.config, warnings);
    ASSERT_EQ(errors.size(), 1U);
    EXPECT_EQ(errors[0].line, 14U);
    EXPECT_EQ(errors[0].key, "dkim.key");
    EXPECT_EQ(errors[0].text.find(folder.file("bad") + ": is neither a PEM"), 0U);

    folder.write("bad", seed);
    std::filesystem::permissions(folder.file("bad"), std::filesystem::perms{0644});
    EXPECT_TRUE(check_dkim_keys(result.config, warnings).empty());
    ASSERT_EQ(warnings.size(), 1U);
    EXPECT_NE(warnings[0].find("chmod 600"), std::string::npos);
}

TEST(ConfigDkim, TablesArriveInThePolicyOfTheDataPlane) {
    Config config =
        parse_config(
            dkim("domains = [\".A.example\", \"b.example\"]\nselector = \"S1\"\nkey = \"/k/%d\"\n"
                 "tenant = \"acme\"\nalgorithm = \"ed25519-sha256\"\ncanonicalization = "
                 "\"relaxed/simple\"\n"
                 "headers = [\"Subject\"]\noversign = [\"From\"]\nexpire_after = \"30d\"\n"
                 "identity = \"@%d\"\non_failure = \"send_unsigned\"\n"),
            "m.toml")
            .config;
    config.policy.version = 7;
    const std::string file = make_snapshot(config.policy);
    const auto loaded = dataplane::policy::parse_snapshot(std::as_bytes(std::span{file}));
    ASSERT_TRUE(loaded.has_value()) << loaded.error().text;
    namespace signing = dataplane::message::dkim;
    const signing::KeyTable expected{.domains = {".a.example", "b.example"},
                                     .selector = "s1",
                                     .key_file = "/k/%d",
                                     .scope = signing::Scope::author,
                                     .tenant = "acme",
                                     .kind = signing::KeyKind::ed25519,
                                     .header_form = signing::Canonical::relaxed,
                                     .body_form = signing::Canonical::simple,
                                     .headers = {"Subject"},
                                     .oversign = {"From"},
                                     .expire_after = std::chrono::hours{24 * 30},
                                     .identity = "@%d",
                                     .on_failure = signing::OnFailure::send_unsigned};
    ASSERT_EQ((*loaded)->dkim.size(), 1U);
    EXPECT_TRUE((*loaded)->dkim[0] == expected);
}

} // namespace
} // namespace control
