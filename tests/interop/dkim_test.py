#!/usr/bin/env python3
"""dkim_test.py: every signature that we make verifies with opendkim and with dkimpy, two verifiers of other hands.

The real messages of the demo (where scripts/real-mail has collected them) and nasty ones made here are signed by
dkim_sign_files, which feeds the relay's own signing code in pieces, with RSA and Ed25519 in all four pairs of
canonical forms; then mail goes through the relay as it is built, and what arrives is verified.
"""
import contextlib
import json
import os
import pathlib
import random
import re
import smtplib
import subprocess
import sys

import harness
from harness import (ROOT, Process, Relay, Skipped, StockSink, any_certificate, binary, expect, expect_equal,
                     free_port, need_tool, run_cases, wait_until)

USER, PASSWORD = "app@customer.example", "Correct-Horse-42-battery"
FORMS = ("relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple")


# The two verifiers. Each gets {name: TXT record} and message files, and returns {file: (good, bad)} of signatures.

DKIMPY = """
import json, sys
import dkim
records = {name.encode() + b".": text.encode() for name, text in json.load(open(sys.argv[1])).items()}
for path in sys.argv[2:]:
    content = open(path, "rb").read()
    good, bad, count, why = 0, 0, 0, ""
    try:
        count = sum(1 for name, value in dkim.DKIM(content).headers if name.lower() == b"dkim-signature" and
                    any(b" d=" + ours in value for ours in (b"millrace.ex", b"customer.ex", b"esp.ex")))
    except dkim.MessageFormatError as failure:
        why = repr(failure)
    for index in range(count):
        try:
            right = dkim.DKIM(content).verify(idx=index, dnsfunc=lambda name, timeout=5: records.get(name))
        except Exception as failure:
            right, why = False, repr(failure)
        good, bad = (good + 1, bad) if right else (good, bad + 1)
    print(json.dumps([path, good, bad, why]), flush=True)
"""


def dkimpy(folder, records, paths):
    if subprocess.run(["/usr/bin/python3", "-c", "import dkim, nacl"], capture_output=True).returncode != 0:
        raise Skipped("dkimpy is not installed (Debian packages python3-dkim, python3-nacl)")
    table = folder / "records.json"
    table.write_text(json.dumps(records))
    return ask(DKIMPY, table, paths)


def ask(script, table, paths):
    """Runs a verifier apart: a crash in it is its own."""
    done = subprocess.run(["/usr/bin/python3", "-c", script, str(table), *map(str, paths)], capture_output=True,
                          text=True, timeout=600)
    expect_equal(done.returncode, 0, f"the verifier ({done.stderr[-800:]})")
    found = {}
    for line in done.stdout.splitlines():
        path, good, bad, why = json.loads(line)
        found[path] = (good, bad, why)
    return found


# libopendkim by its C interface: the daemon's test mode goes through the milter's idea of a header, which trims blanks.
OPENDKIM = """
import ctypes, json, sys
lib = ctypes.CDLL("libopendkim.so.11")
for name, kind in (("dkim_init", ctypes.c_void_p), ("dkim_verify", ctypes.c_void_p), ("dkim_sig_getdomain", ctypes.c_char_p),
                   ("dkim_sig_geterrorstr", ctypes.c_char_p)):
    getattr(lib, name).restype = kind
SET, QUERYMETHOD, QUERYINFO, FILE, PROCESSED, PASSED = 1, 6, 7, 1, 2, 4
handle = ctypes.c_void_p(lib.dkim_init(None, None))
method, table = ctypes.c_int(FILE), ctypes.create_string_buffer(sys.argv[1].encode())
assert lib.dkim_options(handle, SET, QUERYMETHOD, ctypes.byref(method), ctypes.c_size_t(4)) == 0
assert lib.dkim_options(handle, SET, QUERYINFO, table, ctypes.c_size_t(len(sys.argv[1]))) == 0
for path in sys.argv[2:]:
    content = open(path, "rb").read()
    if b"\\r\\n\\r\\n" not in content:
        content += b"\\r\\n"  # a message without a body: its parser wants the header's end
    status = ctypes.c_int()
    message = ctypes.c_void_p(lib.dkim_verify(handle, b"test", None, ctypes.byref(status)))
    said = [lib.dkim_chunk(message, content, ctypes.c_size_t(len(content))), lib.dkim_chunk(message, None, ctypes.c_size_t(0)),
            lib.dkim_eom(message, None)]
    signatures, count = ctypes.POINTER(ctypes.c_void_p)(), ctypes.c_int()
    lib.dkim_getsiglist(message, ctypes.byref(signatures), ctypes.byref(count))
    good, bad, why = 0, 0, str(said)
    for index in range(count.value):
        signature = ctypes.c_void_p(signatures[index])
        if lib.dkim_sig_getdomain(signature) not in (b"millrace.example", b"customer.example", b"esp.example"):
            continue
        lib.dkim_sig_process(message, signature)
        right = lib.dkim_sig_getflags(signature) & PASSED and lib.dkim_sig_getbh(signature) == 0
        good, bad = (good + 1, bad) if right else (good, bad + 1)
        if not right:
            why += f" {index}: error {lib.dkim_sig_geterror(signature)}, body hash {lib.dkim_sig_getbh(signature)}"
    lib.dkim_free(message)
    print(json.dumps([path, good, bad, why]), flush=True)
"""


def opendkim(folder, records, paths):
    if subprocess.run(["/usr/bin/python3", "-c", "import ctypes; ctypes.CDLL('libopendkim.so.11')"],
                      capture_output=True).returncode != 0:
        raise Skipped("libopendkim is not installed (Debian package opendkim)")
    table = folder / "opendkim.keys"
    table.write_text("".join(f"{name} {text}\n" for name, text in records.items()))
    return ask(OPENDKIM, table, paths)


def split_signatures(content):
    """([DKIM-Signature fields at the top], what follows them)."""
    signatures = []
    while content[:15].lower() == b"dkim-signature:":
        end = re.search(rb"\r\n(?![ \t])", content).end()
        signatures.append(content[:end])
        content = content[end:]
    return signatures, content


def verify(folder, records, paths, per_message):
    """Both verifiers find per_message good signatures in each file. Returns how many in all."""
    folder = pathlib.Path(folder.path)
    total = 0
    for name, verifier in (("dkimpy", dkimpy), ("opendkim", opendkim)):
        found = verifier(folder, records, paths)
        for path in paths:
            if name == "opendkim" and not has_author_domain(path.read_bytes()):
                continue  # "From: foo", "From: <>": opendkim judges no message without an author's domain
            good, bad, why = found.get(str(path), (0, 0, "nothing was said of it"))
            expect((good, bad) == (per_message, 0), f"{name}: {path}: {good} good, {bad} bad: {why}")
            total += good
    return total


def has_author_domain(content):
    header = content.split(b"\r\n\r\n", 1)[0] + b"\r\n"
    return re.search(rb"\r\n[Ff][Rr][Oo][Mm]:(?:[^\r]|\r\n[ \t])*@[A-Za-z0-9]", header) is not None


# What is signed.

def nasty_messages(seed=20261122):
    """{name: content}: what goes wrong in canonical forms."""
    rng = random.Random(seed)
    head = b"From: Joe <joe@customer.example>\r\nTo: ann@dest.example\r\nSubject: x\r\nMIME-Version: 1.0\r\n"
    made = {
        "no-body": head,
        "empty-body": head + b"\r\n",
        "one-empty-line": head + b"\r\n\r\n",
        "only-empty-lines": head + b"\r\n" + b"\r\n" * 40,
        "only-blanks": head + b"\r\n \t \r\n\t\r\n",
        "trailing-lines": head + b"\r\ntext\r\n" + b"\r\n" * 30,
        "trailing-blanks": head + b"\r\ntext \t \r\n \t\r\n  \r\n",
        "tabs": head + b"\r\n\ta\tb\t\tc \td\r\n\t\r\ne\r\n",
        "eight-bit": head + b"\r\n" + bytes(range(128, 256)) + b"\r\n",
        "long-lines": head + b"\r\n" + b"\r\n".join(b"w " * 499 for _ in range(30)) + b"\r\n",
        "dots": head + b"\r\n.\r\n..\r\n.text\r\n",
        "folded": b"From:\r\n Joe\r\n\t<joe@customer.example>\r\nSubject: a\r\n \t b\r\n\t\tc \r\nTo:\t ann@dest.example\r\n\r\nx\r\n",
        "folded-to-nothing": b"From: joe@customer.example\r\nSubject: a\r\n  b\r\n \t\r\n c\r\n\r\nx\r\n",
        "empty-fields": b"From: joe@customer.example\r\nSubject:\r\nTo: \r\nCc:\t\r\n\r\nx\r\n",
        "twice": b"Comments: one\r\nFrom: joe@customer.example\r\nComments: two\r\nTo: a@b.example\r\nTo: c@d.example\r\n"
                 b"Comments: three\r\nSubject: s\r\nSubject: t\r\n\r\nx\r\n",
        "upper-case": b"FROM: joe@customer.example\r\nsUBJECT: X  Y\r\n\r\nx\r\n",
        "eight-bit-header": b"From: joe@customer.example\r\nSubject: caf\xc3\xa9 \xe4\r\n\r\nx\r\n",
        "long-field": b"From: joe@customer.example\r\nSubject: " + b"\r\n ".join(b"word%d" % i for i in range(500)) +
                      b"\r\nReferences: " + b"\r\n\t".join(b"<%d@x>" % i for i in range(300)) + b"\r\n\r\nx\r\n",
        "large": head + b"\r\n" + b"".join(b"line %d with  two blanks \r\n" % i for i in range(30000)),
    }
    tokens = [b"\r\n", b"\r\n", b" ", b"\t", b"  ", b"a", b"word", b".", b"\xc3\xa4", b"=20", b"\r\n\r\n\r\n"]
    for number in range(60):
        body = b"".join(rng.choice(tokens) * rng.choice((1, 1, 1, 2, 7)) for _ in range(rng.randrange(400)))
        subject = b"".join(rng.choice([b" ", b"\t", b"w", b"\r\n ", b"\r\n\t"]) for _ in range(rng.randrange(30)))
        made[f"random-{number}"] = head.replace(b"Subject: x", b"Subject: x" + subject + b"z") + b"\r\n" + body + b"\r\n"
    return made


def real_messages():
    return sorted((ROOT / "build" / "real-mail").glob("*.eml"))


def sign_tool():
    build = pathlib.Path(os.environ.get("MILLRACE_BUILD", ROOT / "build"))
    path = build / "tests/dataplane/message/dkim/dkim_sign_files"
    if not path.is_file():
        raise harness.HarnessError(f"{path} is not there\n  remedy: run scripts/build, or set MILLRACE_BUILD")
    return str(path)


def make_key(folder, name, kind, domain, selector, bits=2048):
    """A key by millracectl. Returns (path, {record name: text})."""
    path = pathlib.Path(folder.path) / name
    done = subprocess.run([binary("millracectl"), "--json", "dkim", "keygen", "--domain", domain, "--selector",
                           selector, "--type", kind, "--bits", str(bits), "--out", str(path)],
                          capture_output=True, text=True, timeout=120)
    expect_equal(done.returncode, 0, f"millracectl dkim keygen ({done.stderr})")
    made = json.loads(done.stdout)
    expect_equal(path.stat().st_mode & 0o777, 0o600, "the key file's mode")
    return str(path), {made["name"]: made["record"]}


def every_form_verifies_with_both(folder):
    incoming, signed = folder / "in", folder / "signed"
    incoming.mkdir()
    signed.mkdir()
    for name, content in nasty_messages().items():
        (incoming / f"{name}.eml").write_bytes(content)
    real = real_messages()
    for path in real:
        (incoming / path.name).write_bytes(path.read_bytes())
    arguments, records = [], {}
    for kind in ("rsa", "ed25519"):
        path, record = make_key(folder, f"{kind}.key", kind, "millrace.example", kind)
        text = next(iter(record.values()))
        for forms in FORMS:
            selector = f"{kind}-{forms.replace('/', '-')}"
            records[f"{selector}._domainkey.millrace.example"] = text
            arguments.append(f"{selector}={path}={forms}")
    done = subprocess.run([sign_tool(), str(incoming), str(signed), *arguments], capture_output=True, text=True,
                          timeout=300)
    expect_equal(done.returncode, 0, f"dkim_sign_files ({done.stderr})")
    unsigned = dict(line.split()[1:3] for line in done.stdout.splitlines() if line.startswith("unsigned "))
    expect(all(why in ("no_author", "malformed") for why in unsigned.values()), f"unsigned: {unsigned}")
    left_out = [name for name in unsigned if not any(path.name == name for path in real)]
    expect_equal(left_out, [], "nasty messages without a signature")
    paths = [path for path in sorted(signed.iterdir()) if path.name not in unsigned]
    expect(len(paths) >= 60 + (len(real) // 2), f"{len(paths)} messages are signed")
    total = verify(folder, records, paths, len(arguments))
    print(f"  {len(paths)} messages ({len(real)} real, {len(unsigned)} of them without one author or malformed), "
          f"{total} verifications", file=sys.stderr)


def through_the_relay(folder):
    """Tenant's domain with both algorithms, and the ESP's own: all sorts of mail, over DATA and BDAT."""
    keys = pathlib.Path(folder.path) / "keys"
    records = {}
    for domain, selector, kind in (("customer.example", "r1", "rsa"), ("customer.example", "e1", "ed25519"),
                                   ("esp.example", "own", "rsa")):
        _, record = make_key(folder, f"keys/{domain}/{selector}.key", kind, domain, selector)
        records.update(record)
    sink = StockSink(folder)
    relay = Relay(folder, smart_host=f"127.0.0.1:{sink.port}", config=f"""
[[dkim]]
domains = ["*"]
selector = "r1"
key = "{keys}/%d/%s.key"

[[dkim]]
domains = [".customer.example"]
selector = "e1"
key = "{keys}/%d/%s.key"
canonicalization = "simple/simple"
expire_after = "30d"
identity = "@%d"

[[dkim]]
domains = ["esp.example"]
selector = "own"
key = "{keys}/%d/%s.key"
scope = "always"
canonicalization = "relaxed/simple"
""").start()
    relay.add_account(USER, PASSWORD)
    names = ("no-body", "empty-body", "trailing-lines", "trailing-blanks", "tabs", "eight-bit", "folded", "twice",
             "dots", "random-1", "random-2", "large")
    contents = nasty_messages()
    with smtplib.SMTP("127.0.0.1", relay.submission, timeout=30) as client:
        client.starttls(context=any_certificate())
        client.login(USER, PASSWORD)
        for name in names:
            refused = client.sendmail(USER, [f"{name}@dest.example"], contents[name], mail_options=["BODY=8BITMIME"])
            expect_equal(refused, {}, name)
    arrived = sink.wait_for(len(names))
    paths = []
    for number, (_, content) in enumerate(arrived):
        path = folder / f"arrived-{number}.eml"
        path.write_bytes(content)
        paths.append(path)
        signatures, rest = split_signatures(content)
        expect_equal(len(signatures), 3, "signatures")
        expect(rest.startswith(b"Received: "), "the relay's Received is below the signatures")
        for signature in signatures:
            expect(all(len(line) <= 78 for line in signature.split(b"\r\n")), f"a long line: {signature}")
    verify(folder, records, paths, 3)
    stats = relay.stats()
    expect_equal((stats["dkim_signed"], stats["dkim_signatures"], stats["dkim_failed"]),
                 (len(names), 3 * len(names), 0), "counters")
    events = [json.loads(line) for line in (relay.folder / "state" / "events.jsonl").read_text().splitlines()]
    said = {event["dkim"] for event in events if event["type"] == "Reception"}
    expect_equal(said, {"customer.example/r1 customer.example/e1 esp.example/own"}, "dkim in the Reception events")


def bad_key_keeps_the_old_ones(folder):
    path, record = make_key(folder, "one.key", "ed25519", "customer.example", "one")
    sink = StockSink(folder)
    relay = Relay(folder, smart_host=f"127.0.0.1:{sink.port}", config=f"""
[[dkim]]
domains = ["customer.example"]
selector = "one"
key = "{path}"
""").start()
    message = nasty_messages()["tabs"]

    def submit():
        with smtplib.SMTP("127.0.0.1", relay.relay, timeout=30) as client:
            client.sendmail(USER, ["a@dest.example"], message)
    submit()
    text = pathlib.Path(path).read_text()
    pathlib.Path(path).write_text("no key\n")
    try:
        relay.ctl("reload")
        raise AssertionError("a bad key was taken")
    except harness.HarnessError as refusal:
        expect(path in str(refusal) and "dkim.key" in str(refusal) and "millracectl dkim keygen" in str(refusal),
               f"file, setting and remedy are named: {refusal}")
    submit()
    pathlib.Path(path).write_text(text)
    pathlib.Path(path).chmod(0o644)
    done = subprocess.run([binary("millracectl"), "--config", str(relay.config), "reload"], capture_output=True,
                          text=True, timeout=60)
    expect_equal(done.returncode, 0, f"reload ({done.stderr})")
    expect(f"chmod 600 {path}" in done.stderr, f"a file that others may read is warned of: {done.stderr}")
    submit()
    arrived = sink.wait_for(3)
    paths = []
    for number, (_, content) in enumerate(arrived):
        paths.append(folder / f"arrived-{number}.eml")
        paths[-1].write_bytes(content)
    verify(folder, record, paths, 1)


def dns_and_check(folder):
    """The zone that `dkim dns` prints, served by NSD, is what `dkim check` wants; and it says what is not."""
    nsd = need_tool("nsd", "nsd")
    entries, files = [], {}
    for kind, selector, bits in (("rsa", "r2048", 2048), ("rsa", "r4096", 4096), ("ed25519", "ed", 2048)):
        path, _ = make_key(folder, f"{selector}.key", kind, "dest.example", selector, bits)
        files[selector] = path
        entries.append(subprocess.run([binary("millracectl"), "dkim", "dns", "--key", path, "--domain",
                                       "dest.example", "--selector", selector], capture_output=True, text=True,
                                      check=True, timeout=60).stdout)
    entries.append("wrong._domainkey.dest.example. IN TXT \"v=DKIM1; k=ed25519; p=AAAA\"\n")
    entries.append("gone._domainkey.dest.example. IN TXT \"v=DKIM1; k=ed25519; p=\"\n")
    port = free_port()
    (folder / "example.zone").write_text("$ORIGIN example.\n$TTL 60\n@ IN SOA ns hostmaster 1 3600 600 86400 60\n"
                                         "@ IN NS ns\nns IN A 127.0.0.1\n" + "".join(entries))
    config = folder / "nsd.conf"
    config.write_text(
        f'server:\n  ip-address: 127.0.0.1@{port}\n  username: ""\n  zonesdir: "{folder.path}"\n'
        f'  database: ""\n  pidfile: "{folder.path}/nsd.pid"\n  xfrdfile: "{folder.path}/xfrd.state"\n'
        f'  zonelistfile: "{folder.path}/zone.list"\n  xfrdir: "{folder.path}"\n  server-count: 1\n'
        f'remote-control:\n  control-enable: no\nzone:\n  name: example\n  zonefile: example.zone\n')
    process = Process("nsd", [nsd, "-d", "-c", str(config)], folder.path)
    wait_until("NSD", lambda: process.must_run() and "nsd started" in pathlib.Path(process.log).read_text(), 20)

    def check(key, selector):
        return subprocess.run([binary("millracectl"), "dkim", "check", "--key", files[key], "--domain", "dest.example",
                               "--selector", selector, "--server", f"127.0.0.1@{port}"], capture_output=True,
                              text=True, timeout=60)
    for selector in files:
        done = check(selector, selector)
        expect_equal(done.returncode, 0, f"{selector}: {done.stdout}{done.stderr}")
        expect("OK" in done.stdout, done.stdout)
    for key, selector, text in (("ed", "wrong", "another key"), ("ed", "gone", "revoked"), ("ed", "r2048", "k= is rsa"),
                                ("ed", "nowhere", "no TXT record"), ("r2048", "r4096", "another key")):
        done = check(key, selector)
        expect_equal(done.returncode, 1, f"{selector} with {key}: {done.stdout}{done.stderr}")
        expect("NOT OK" in done.stdout and text in done.stdout, f"{text!r} in {done.stdout}")
    again = subprocess.run([binary("millracectl"), "dkim", "keygen", "--domain", "dest.example", "--selector", "ed",
                            "--out", files["ed"]], capture_output=True, text=True, timeout=60)
    expect_equal(again.returncode, 1, "a key that is there is not replaced")
    with contextlib.suppress(Exception):
        process.stop()


if __name__ == "__main__":
    run_cases([
        ("every_form_verifies_with_both", every_form_verifies_with_both),
        ("through_the_relay", through_the_relay),
        ("bad_key_keeps_the_old_ones", bad_key_keeps_the_old_ones),
        ("dns_and_check", dns_and_check),
    ])
