// What one message costs the SMTP room: sessions fed from memory, everything below them as cheap as
// it can be. The spool is the real one on a disk that is ready at once, so its share is in the
// figure too; perf tells them apart.
#include "dataplane/smtp/data_decoder.h"

#include "tests/dataplane/smtp/server_load.h"

#include <benchmark/benchmark.h>
#include <string>
#include <vector>

namespace tests {
namespace {

void accept_messages(benchmark::State& state) {
    ServerLoad load{static_cast<std::size_t>(state.range(0))};
    load.begin(20);
    constexpr std::uint64_t batch = 1000;
    load.run(batch); // warm up
    const std::uint64_t allocations_before = allocation_count();
    for (auto _ : state)
        load.run(batch);
    const auto messages = static_cast<double>(state.iterations() * batch);
    state.counters["messages"] = benchmark::Counter(messages, benchmark::Counter::kIsRate);
    state.counters["allocations_per_message"] =
        static_cast<double>(allocation_count() - allocations_before) / messages;
}
BENCHMARK(accept_messages)->Arg(1024)->Arg(4096)->Arg(32768)->Unit(benchmark::kMillisecond);

void decode_data(benchmark::State& state) {
    std::string content;
    while (content.size() < 1 << 20)
        content.append(static_cast<std::size_t>(state.range(0)), 'x').append("\r\n");
    std::vector<std::byte> output(content.size());
    dataplane::smtp::DataDecoder decoder;
    for (auto _ : state) {
        decoder.reset(dataplane::smtp::Framing::dotted, dataplane::smtp::BareNewlines::refuse);
        benchmark::DoNotOptimize(decoder.decode(base::as_bytes(content), output));
    }
    state.SetBytesProcessed(static_cast<std::int64_t>(content.size()) * state.iterations());
}
BENCHMARK(decode_data)->Arg(30)->Arg(74)->Arg(900);

} // namespace
} // namespace tests

BENCHMARK_MAIN();
