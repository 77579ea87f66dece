"""embed.py OUT FILE...: the profiles of scripts/bench.d as a C++ source, so that the program needs no folder."""
import pathlib
import sys

out, *files = sys.argv[1:]
lines = ['// Made by embed.py from scripts/bench.d.', '#include "dataplane/loadgen/run/profile.h"', '',
         'namespace dataplane::loadgen {', 'namespace {']
entries = []
for path in sorted(map(pathlib.Path, files)):
    text = path.read_text()
    assert ')toml"' not in text
    # Compilers bound the length of one literal: pieces are put together again.
    pieces = [text[i:i + 8000] for i in range(0, len(text), 8000)]
    lines.append(f'constexpr std::string_view {path.stem}_text =')
    lines += [f'    R"toml({piece})toml"' for piece in pieces]
    lines[-1] += ';'
    if path.stem != 'providers':
        entries.append(f'{{"{path.stem}", {path.stem}_text}}')
lines += ['} // namespace', '',
          'std::vector<Shipped> shipped_profiles() {', f'    return {{{", ".join(entries)}}};', '}',
          'std::string_view shipped_providers() {', '    return providers_text;', '}', '',
          '} // namespace dataplane::loadgen', '']
pathlib.Path(out).write_text('\n'.join(lines))
