// report.h: a result as one HTML file for people, with everything in it.
#pragma once

#include "dataplane/loadgen/run/result.h"

#include <string>

namespace dataplane::loadgen {

/// Well-formed XML as well as HTML; nothing in it is loaded from anywhere.
[[nodiscard]] std::string make_report(const RunResult& result);

} // namespace dataplane::loadgen
