// handshake_bench.cc: prints what tls_offload/bench measures. Usage: tls_handshake_bench [SECONDS A ROW]
#include "tls_offload/bench/tls_bench.h"

#include <cstdio>
#include <cstdlib>

int main(int argc, char** argv) {
    namespace bench = tls_offload::bench;
    const double seconds = argc > 1 ? std::strtod(argv[1], nullptr) : 1.0;
    std::printf("%-32s %10s %10s %8s %8s\n", "case", "ours us", "stock us", "ratio", "goal");
    for (const auto& rows : {bench::handshakes(seconds), bench::bulk(seconds)}) {
        for (const bench::Row& row : rows) {
            std::printf("%-32s %10.2f %10.2f %8.3f %8.2f\n", row.name.c_str(), row.ours_us,
                        row.stock_us, row.ratio(), row.goal);
        }
    }
    std::printf("%-36s %12s %12s %8s\n", "handshakes/s", "one thread", "two threads", "scaling");
    for (const bench::Contention& row : bench::contention(seconds)) {
        std::printf("%-36s %12.0f %12.0f %8.2f\n", row.name.c_str(), row.one_per_s, row.two_per_s,
                    row.scaling());
    }
    return 0;
}
