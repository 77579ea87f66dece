"""compare_page.py: the rows of scripts/compare as one page, with plots, that needs nothing from outside.

Scope      Values to markup: scripts/compare.d/page.html filled in. Well-formed XML as well as HTML.
"""
import datetime
import html
import pathlib

TEMPLATE = pathlib.Path(__file__).resolve().parent / "compare.d" / "page.html"
WIDTH, LEFT, RIGHT, TOP, LINE = 720, 210, 80, 30, 22

# What each group of rows is drawn by: title, key, decimals; the longer bar is better for the first alone.
PLOTS = [("Messages a second, end to end (more is better)", "end_to_end_per_s", 0),
         ("CPU seconds for 1,000 messages (less is better)", "cpu_s_per_1000", 3),
         ("Memory at most, MB (less is better)", "memory_mb_max", 0),
         ("Acceptance, p99, ms (less is better)", "accept_ms_p99", 1)]
COLUMNS = [("system", "title", None), ("bytes", "size_bytes", 0), ("TLS in", "tls", None), ("TLS out", "tls_out", None),
           ("DKIM", "dkim", None), ("durable", "durable", None), ("messages", "messages", 0), ("accept/s", "accept_per_s", 0),
           ("end to end/s", "end_to_end_per_s", 0), ("CPU s per 1,000", "cpu_s_per_1000", 3),
           ("MB at most", "memory_mb_max", 0), ("p50 ms", "accept_ms_p50", 2), ("p99 ms", "accept_ms_p99", 2),
           ("lost", "lost", 0), ("twice", "duplicated", 0), ("altered", "altered", 0)]


def shown(value, decimals):
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "on" if value else "off"
    return html.escape(str(value)) if decimals is None else f"{value:,.{decimals}f}"


def table(titles, lines):
    """lines: of (text, class) that is markup already."""
    cells = "".join(f"<th{css}>{title}</th>" for title, css in titles)
    head = f"<tr>{cells}</tr>" if titles else ""
    body = "".join("<tr>" + "".join(f"<td{css}>{text}</td>" for text, css in line) + "</tr>" for line in lines)
    return f"<table>{head}{body}</table>"


def css_class(name):
    return f' class="{name}"' if name else ""


def all_rows(rows):
    lines = []
    for row in rows:
        line = []
        for _, key, decimals in COLUMNS:
            fault = (key in ("lost", "altered") and row[key] != 0) or (key == "durable" and not row[key])
            text = ("yes" if row[key] else "NO") if key == "durable" else shown(row[key], decimals)
            line.append((text, css_class(" ".join(["n"] * (decimals is not None) + ["fault"] * fault))))
        lines.append(line)
    return table([(title, css_class("n" if decimals is not None else "")) for title, _, decimals in COLUMNS], lines)


def plot(title, rows, key, decimals):
    """A bar for each system."""
    height = TOP + LINE * len(rows) + 6
    most = max((row[key] or 0 for row in rows), default=0) or 1
    svg = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(title)}">',
           f'<text class="title" x="0" y="16">{html.escape(title)}</text>']
    for i, row in enumerate(rows):
        y = TOP + LINE * i
        svg.append(f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{html.escape(row["title"])}</text>')
        if row[key] is None:
            svg.append(f'<text class="none" x="{LEFT + 4}" y="{y + 14}">unknown</text>')
            continue
        length = max(1.0, (WIDTH - LEFT - RIGHT) * row[key] / most)
        ours = " ours" if row["system"].startswith("millrace") else ""
        svg.append(f'<rect class="bar{ours}" x="{LEFT}" y="{y + 2}" width="{length:.1f}" height="{LINE - 6}"/>')
        svg.append(f'<text x="{LEFT + length + 6:.1f}" y="{y + 14}">{shown(row[key], decimals)}</text>')
    return "".join(svg) + "</svg>"


def condition(row):
    tls = "DKIM, TLS in" if row["dkim"] else "TLS on both legs" if row["tls"] else "no TLS"
    return f"{row['size_bytes']:,} bytes, {tls}, {row['connections']} connections"


def page(rows, remarks, command):
    """remarks: what was skipped, failed or is not to be trusted, in words."""
    groups = {}
    for row in rows:
        groups.setdefault(condition(row), []).append(row)
    markup = "".join(f'<h2>{html.escape(name)}</h2><div class="charts">' +
                     "".join(plot(title, group, key, decimals) for title, key, decimals in PLOTS) + "</div>\n"
                     for name, group in groups.items())
    pairs = {row["title"]: row["greeting"] for row in rows if row["greeting"]}
    machine = rows[-1]["machine"] if rows else {}

    def facts(entries):
        return table([], [[(html.escape(name), ""), (html.escape(str(value)), "")] for name, value in entries.items()])
    values = {
        "BEGAN": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), "TABLE": all_rows(rows),
        "GROUPS": markup, "GREETINGS": facts(pairs), "MACHINE": facts(machine), "COMMAND": html.escape(command),
        "REMARKS": "<ul>" + "".join(f"<li>{html.escape(remark)}</li>" for remark in remarks) + "</ul>" if remarks
                   else "<p>None: nothing was skipped, and no row gave reason to doubt it.</p>"}
    text = TEMPLATE.read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text
