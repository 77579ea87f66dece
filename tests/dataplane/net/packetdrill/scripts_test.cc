// scripts_test.cc: every script of scripts/ against the stack, one test each.
//
// PACKETDRILL_SCRIPTS=FOLDER in the environment plays another folder's instead.

#include "tests/dataplane/net/packetdrill/executor.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <gtest/gtest.h>

namespace tests::packetdrill {

namespace {

std::vector<std::string> script_files() {
    const char* const folder = std::getenv("PACKETDRILL_SCRIPTS");
    std::vector<std::string> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(
             folder != nullptr ? folder : PACKETDRILL_SCRIPTS_FOLDER)) {
        if (entry.path().extension() == ".pkt") files.push_back(entry.path().string());
    }
    std::ranges::sort(files);
    return files;
}

std::string test_name(const testing::TestParamInfo<std::string>& info) {
    std::string name = std::filesystem::path(info.param).stem().string();
    std::ranges::replace_if(
        name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }, '_');
    return name;
}

class Packetdrill : public testing::TestWithParam<std::string> {};

TEST_P(Packetdrill, Plays) {
    const RunResult result = run_file(GetParam(), {.strict_end = true});
    if (result.outcome == RunResult::Outcome::skipped) GTEST_SKIP() << result.message;
    EXPECT_EQ(result.outcome, RunResult::Outcome::passed) << result.message;
}

INSTANTIATE_TEST_SUITE_P(Scripts, Packetdrill, testing::ValuesIn(script_files()), test_name);

} // namespace

} // namespace tests::packetdrill
