#!/usr/bin/env python3
"""spool_format_test.py: docs/spool-format.md is enough to read a pool by.

spool_reader.py was written from that document alone. Here it reads the golden images, finds in them what they are known
to hold, and notices one changed byte in every kind of structure, or falls back as the document says.

Usage: spool_format_test.py [--images FOLDER] [--tool PATH]
  --images  where the golden images are (default: ../queue/golden beside this file)
  --tool    millrace-spool: what it says of the same pools is compared, too
"""
import argparse
import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import time
import traceback

import spool_reader as reader
from spool_reader import BLOCK, Refused, read_pool

ARGUMENTS = None
DUE_2100 = 4102444800000
FIRST, SECOND, FINISHED, FOURTH = (1 << 40 | number for number in range(1, 5))


class Failed(Exception):
    pass


def expect(condition, message):
    if not condition:
        raise Failed(message)


def images(encrypted=False):
    found = {file.stem: reader.unpack_sparse(file.read_bytes()) for file in sorted(ARGUMENTS.images.glob("*.image"))
             if file.stem.endswith("_encrypted") == encrypted}
    expect(found, f"no images in {ARGUMENTS.images}")
    return found


def with_checkpoint():
    return {name: data for name, data in images().items() if "checkpoint" in name}


def newest():
    return list(with_checkpoint().items())[-1]


def without_checkpoint():
    return images()["version2"]


def flipped(data, *places):
    data = bytearray(data)
    for place in places:
        data[place] ^= 0x40
    return bytes(data)


def changes(segment, places):
    """Each of these offsets in turn with one bit of its byte the other way round."""
    segment.data = bytearray(segment.data)
    for place in places:
        segment.data[place] ^= 0x40
        yield place
        segment.data[place] ^= 0x40


def base(pool, slot):
    return pool.slot_range(slot)[0]


def told(message):
    return (message.id, message.sender, tuple(message.recipients), message.due, message.rounds, message.last_error, message.content,
            message.damaged)


def mail(pool):
    return {number: told(message) for number, message in pool.live.items()}


def said(pool, text):
    return any(text in each for each in pool.problems)


def read_all(data):
    """The pool, with the records of every segment read, whether recovery wanted them or not."""
    pool = read_pool(data)
    for segment in pool.segments.values():
        if not segment.was_read:
            segment.read()
    return pool


def all_records(data):
    return [record for segment in read_all(data).segments.values() for record in segment.records]


def position(pool, record):
    return base(pool, record.slot) + record.offset


# Writing, as far as these tests want it: checksums of changed structures, and frames that no image has.

def sealed_superblock(data, copy, change):
    block = bytearray(data[copy * BLOCK:(copy + 1) * BLOCK])
    change(block)
    struct.pack_into("<I", block, 8, reader.crc32c(block[12:], copy + 1))
    return data[:copy * BLOCK] + bytes(block) + data[(copy + 1) * BLOCK:]


def sealed_copies(data, copies, change):
    for copy in copies:
        data = sealed_superblock(data, copy, change)
    return data


def with_frame(data, offset, batch, watermark, records):
    """A frame in slot 0, in version 2, with records of (type, flags, LSN, id, payload)."""
    pool = read_pool(data)
    segment = pool.segments[0]
    body, at = b"", offset + reader.FRAME_HEADER
    for kind, flags, lsn, message, payload in records:
        place = segment.place(at)
        rest = struct.pack("<HHIQQ", kind, flags, len(payload), lsn, message)
        rest = struct.pack("<I", reader.crc32c(payload, place >> 32)) + rest
        record = struct.pack("<I", reader.crc32c(rest, place & 0xFFFFFFFF)) + rest + payload
        record += bytes(-len(record) % 8)
        body += record
        at += len(record)
    used = reader.FRAME_HEADER + len(body)
    size = (used + BLOCK - 1) // BLOCK * BLOCK
    rest = struct.pack("<HHIQQQIIIIII", 2, reader.FRAME_HEADER, 0, segment.number, batch, watermark, segment.header["epoch"], offset,
                       size, used, len(records), 0)
    head = b"MRBF" + struct.pack("<I", reader.crc32c(rest, segment.place(offset) & 0xFFFFFFFF)) + rest
    begin = base(pool, 0) + offset
    expect(reader.blank(data[begin:begin + size]), "the place of a new frame is free")
    return data[:begin] + (head + body).ljust(size, b"\0") + data[begin + size:]


def free_offset(data):
    """Behind the last frame of slot 0, and the number that a frame there has."""
    segment = read_all(data).segments[0]
    last = segment.frames[-1]
    return last["offset"] + last["bytes"], last["batch"] + 1


def envelope(sender, *recipients):
    fixed = struct.pack("<qqB16sHBBB", 1767225600000, 1767657600000, 4, bytes([192, 0, 2, 1]).ljust(16, b"\0"), 2525, 0, 1, 0)
    fields = [(9, fixed), (1, sender)] + [(8, struct.pack("<BH", 4, 0) + recipient) for recipient in recipients]
    return b"".join(struct.pack("<HH", tag, len(value)) + value for tag, value in fields)


CHUNKED = 1 << 40 | 0x77
LSN = (1 << 40) + 0x100


def chunked(missing=()):
    """An image with one more message, of three chunks."""
    data = without_checkpoint()
    parts = [b"a" * 5000, b"b" * 5000, b"c" * 17]
    prelude, raw = b"Received: chunks\r\n", envelope(b"chunks@example.org", b"user@example.net")
    for index, part in enumerate(parts):
        if index not in missing:
            offset, batch = free_offset(data)
            payload = struct.pack("<IIQ", index, 0, index * 5000) + part
            data = with_frame(data, offset, batch, batch - 1, [(reader.BODY_CHUNK, 0, LSN + index, CHUNKED, payload)])
    prefix = struct.pack("<IIQII", len(raw), len(prelude), len(prelude) + 10017, 3, reader.crc32c(raw))
    offset, batch = free_offset(data)
    data = with_frame(data, offset, batch, batch - 1, [(reader.MSG_COMMIT, 0, LSN + 3, CHUNKED, prefix + raw + prelude)])
    return data, prelude + b"".join(parts)


# The cases.

def every_image_holds_its_messages():
    for name, data in images().items():
        pool = read_pool(data)
        major, minor = pool.superblock["major"], pool.superblock["minor"]
        expect(name.startswith(f"version{major}"), f"{name} has major version {major}")
        expect(f"{major}_{minor}" in name or "_" not in name, f"{name} has version {major}.{minor}")
        expect(not pool.problems, f"{name}: {pool.problems}")
        expect(pool.ended == {FINISHED} and pool.live.keys() == {FIRST, SECOND, FOURTH}, f"{name}: {pool.live.keys()}, {pool.ended}")
        first, second, fourth = (pool.live[number] for number in (FIRST, SECOND, FOURTH))
        for message in (first, second, fourth):
            expect(message.sender == b"sender@example.org" and not message.damaged, f"{name}: {message}")
            addresses = [b"user%d@example.net" % number for number in range(len(message.recipients))]
            expect([each[0] for each in message.recipients] == addresses, f"{name}: {message.recipients}")
        expect((first.due, first.rounds, first.last_error) == (DUE_2100, 1, b"451 4.7.1 later"), f"{name}: {first}")
        expect([each[1] for each in first.recipients] == ["pending"], f"{name}: {first.recipients}")
        expect([each[1] for each in second.recipients] == ["pending", "delivered", "pending"], f"{name}: {second.recipients}")
        expect([each[1] for each in fourth.recipients] == ["pending"] and fourth.due == 0 and fourth.rounds == 0, f"{name}: {fourth}")
        expect([each.content for each in (first, second, fourth)] ==
               [b"Received: v1\r\nfirst body\r\n", b"Received: v1\r\nsecond body\r\n", b"small chunky"], f"{name}: contents")


def entries_agree_with_their_messages():
    for name, data in with_checkpoint().items():
        pool = read_pool(data)
        expect(pool.superblock["clean"] == 1 and pool.checkpoint, f"{name}: {pool.superblock}")
        expect(pool.entries.keys() == pool.live.keys(), f"{name}: {pool.entries}")
        for number, entry in pool.entries.items():
            message = pool.live[number]
            expect(entry["sender_hash"] == reader.address_hash(message.sender), f"{name}: sender of {number:x}")
            expect(entry["recipient_hash"] == reader.address_hash(message.recipients[0][0]), f"{name}: recipient of {number:x}")
            expect(entry["content_bytes"] == len(message.content), f"{name}: content of {number:x}")
            expect(entry["arrival"] == message.envelope["arrival"] // 1000, f"{name}: arrival of {number:x}")
            expect(entry["domains"] == [each[0].split(b"@")[1] for each in message.recipients], f"{name}: domains of {number:x}")
            record = next(each for each in all_records(data) if each.id == number and each.type == reader.MSG)
            expect((record.slot, record.offset) == (entry["location"]["slot"], entry["location"]["offset"]), f"{name}: {number:x}")
        for slot, segment in pool.segments.items():
            expect(not reader.bit(pool.checkpoint["free"], slot), f"{name}: slot {slot} holds segment {segment.number:x} and is free")


def every_checksum_is_right():
    for name, data in {**images(), **images(encrypted=True)}.items():
        pool = read_all(data)
        expect(all(pool.superblock_copies) and len(pool.segments) in (2, 3), f"{name}: superblocks or segments")
        frames = [frame for segment in pool.segments.values() for frame in segment.frames]
        records = all_records(data)
        expect(len(frames) >= 4 and all(record.sound and record.frame for record in records), f"{name}: {records}")
        expect(sum(frame["records"] for frame in frames) == len(records), f"{name}: records are missing")
        for segment in pool.segments.values():
            # No byte of what is written lies outside of frames.
            end = max([frame["offset"] + frame["used"] for frame in segment.frames], default=reader.FRAMES_FROM)
            expect(reader.blank(segment.data[end:]), f"{name}: slot {segment.slot} goes on behind {end}")


def an_encrypted_image_shows_what_needs_no_key():
    for name, data in images(encrypted=True).items():
        pool = read_all(data)
        expect(pool.superblock["incompatible"] == 1 and all(each.encrypted for each in pool.segments.values()), f"{name}: features")
        expect(len({each.header["key_id"] for each in pool.segments.values()}) == 1, f"{name}: ids of the key")
        expect(len({each.header["wrapped_key"] for each in pool.segments.values()}) == len(pool.segments), f"{name}: wrapped keys")
        expect(pool.problems == ["the checkpoint: it is encrypted"], f"{name}: {pool.problems}")
        expect(pool.ended == {FINISHED} and pool.live.keys() == {FIRST, SECOND, FOURTH}, f"{name}: {pool.live.keys()}, {pool.ended}")
        expect(all(message.locked for message in pool.live.values()), f"{name}: {pool.live}")
        plain = [(each.type, each.size, each.lsn, each.id) for each in all_records(newest()[1])]
        expect([(each.type, each.size, each.lsn, each.id) for each in all_records(data)] == plain, f"{name}: other records")


def a_superblock_copy_changes():
    for name, data in images().items():
        wanted = mail(read_pool(data))
        for copy in range(reader.COPIES):
            for at in [*range(0, 136, 3), 2048, 4095]:
                block = flipped(data[copy * BLOCK:(copy + 1) * BLOCK], at)
                expect(reader.parse_superblock(block, copy) is None, f"{name}: byte {at} of copy {copy} can change")
            block = data[copy * BLOCK:(copy + 1) * BLOCK]
            expect(reader.parse_superblock(block, (copy + 1) % 4) is None, f"{name}: copy {copy} moved")
            pool = read_pool(flipped(data, copy * BLOCK + 50))
            expect(said(pool, f"copy {copy} of the superblock") and mail(pool) == wanted, f"{name}: {pool.problems}")
        pool = read_pool(flipped(data, 50, 3 * BLOCK + 50))
        expect(len(pool.problems) == 2 and mail(pool) == wanted, f"{name}: {pool.problems}")
        refused(flipped(data, 50, BLOCK + 50, 3 * BLOCK + 50), "no two copies", name)


def the_newest_generation_of_two_copies_counts():
    name, data = newest()

    def newer(block):
        struct.pack_into("<Q", block, 48, 9)

    def other(block):
        newer(block)
        struct.pack_into("<I", block, 56, 77)

    expect(read_pool(sealed_copies(data, (0, 1), newer)).superblock["generation"] == 9, f"{name}: two newer copies")
    expect(read_pool(sealed_copies(data, (1, 3), newer)).superblock["generation"] == 9, f"{name}: any two newer copies")
    expect(read_pool(sealed_copies(data, (2,), newer)).superblock["generation"] == 3, f"{name}: one newer copy")
    once = sealed_copies(data, (0,), newer)
    expect(read_pool(sealed_copies(once, (1,), other)).superblock["generation"] == 3, f"{name}: two that differ")


def a_segment_header_copy_changes():
    for name, data in images().items():
        whole = read_pool(data)
        wanted = mail(whole)
        for slot, segment in whole.segments.items():
            begin = base(whole, slot)
            for copy in range(2):
                at = begin + copy * BLOCK
                for byte in [*range(0, 64, 3), 100, 4095]:
                    block = flipped(data[at:at + BLOCK], byte)
                    expect(reader.parse_segment_header(block, copy) is None, f"{name}: byte {byte} of header {copy} can change")
                pool = read_pool(flipped(data, at + 50))
                expect(said(pool, f"slot {slot}: copy {copy} of the header"), f"{name}: {pool.problems}")
                expect(mail(pool) == wanted, f"{name}: one header of slot {slot} serves")
            pool = read_pool(flipped(data, begin + 50, begin + BLOCK + 50))
            expect(said(pool, f"slot {slot}: no header"), f"{name}: {pool.problems}")
            holds_mail = any(message.record.slot == slot for message in whole.live.values())
            undamaged = {number: each for number, each in mail(pool).items() if not pool.live[number].damaged}
            expect(undamaged == ({} if holds_mail else wanted), f"{name}: slot {slot} without headers: {undamaged}")


def a_frame_header_changes():
    for name, data in images().items():
        whole = read_all(data)
        wanted, read = mail(whole), read_pool(data)
        for slot, segment in whole.segments.items():
            for frame in segment.frames:
                at = base(whole, slot) + frame["offset"]
                for place in changes(segment, range(frame["offset"], frame["offset"] + reader.FRAME_HEADER)):
                    expect(segment.frame_at(frame["offset"]) is None, f"{name}: byte {place} of a frame's header can change")
                pool = read_pool(flipped(data, at + 24))
                expect(mail(pool) == wanted, f"{name}: records without a frame are taken")
                expect(said(pool, "a record without a frame"), f"{name}: frame at {at:#x}: {pool.problems}")
                damage = 0 < frame["batch"] <= max(read.watermarks.values())
                expect(said(pool, f"batch {frame['batch']} is missing") == damage, f"{name}: frame at {at:#x}: {pool.problems}")


def a_record_header_changes():
    for name, data in images().items():
        whole = read_all(data)
        for record in all_records(data):
            segment, at = whole.segments[record.slot], position(whole, record)
            for place in changes(segment, range(record.offset, record.offset + reader.RECORD_HEADER)):
                expect(segment.record_at(record.offset) is None, f"{name}: byte {place} of a record's header can change")
            expect_changed(name, data, whole, record, at + 16)


def a_payload_changes():
    for name, data in {**images(), **images(encrypted=True)}.items():
        whole = read_all(data)
        for record in all_records(data):
            segment, at = whole.segments[record.slot], position(whole, record)
            stored = record.size + (reader.TAG_BYTES if record.locked else 0)
            begin = record.offset + reader.RECORD_HEADER
            for place in changes(segment, range(begin, begin + stored, 1 if stored < 400 else 37)):
                changed = segment.record_at(record.offset)
                expect(changed and not changed.sound, f"{name}: byte {place} of a payload can change")
            if stored and not record.locked:
                expect_changed(name, data, whole, record, at + reader.RECORD_HEADER + record.size - 1)


def expect_changed(name, data, whole, record, place):
    """What becomes of the mail when one byte of a record has changed."""
    pool, wanted = read_pool(flipped(data, place)), mail(whole)
    where = f"{name}: record of type {record.type:#x} at {record.offset}, byte {place:#x}: {pool.problems}"
    checked = bool(whole.checkpoint)
    expect(pool.problems, where)
    if record.type == reader.MSG and record.id in wanted:
        # It is mail all the same when there is an entry, or when its envelope's own checksum is known and right.
        left = pool.live.pop(record.id, None)
        told_of = place >= position(whole, record) + reader.RECORD_HEADER and reader.parse_message(record)["envelope_right"]
        expect((left is not None and left.damaged and left.content is None) if checked or told_of else left is None, where)
        expect(not told_of or left.sender == b"sender@example.org", where)
        del wanted[record.id]
    elif record.type == reader.STATUS and record.id in wanted and not checked:
        left = pool.live[record.id]
        expect(left.due == 0 and all(each[1] == "pending" for each in left.recipients), where)
        pool.live[record.id] = whole.live[record.id]
    elif record.type == reader.TOMB:
        expect(FINISHED in pool.live, where)
        del pool.live[FINISHED]
    elif record.type in (reader.CHECKPOINT_PART, reader.CHECKPOINT_END):
        expect(said(pool, "the checkpoint: ") and not pool.entries, where)
    expect(mail(pool) == wanted, where)


def an_envelope_of_a_damaged_message_is_read_by_its_own_checksum():
    """Without an entry, too, once a later frame's watermark says that the message had been acknowledged."""
    data = without_checkpoint()
    raw = envelope(b"broken@example.org", b"one@example.net", b"two@example.net")
    payload = struct.pack("<IIQII", len(raw), 0, 8, 0, reader.crc32c(raw)) + raw + b"contents"
    offset, batch = free_offset(data)
    data = with_frame(data, offset, batch, batch - 1, [(reader.MSG, 0, LSN, CHUNKED, payload)])
    expect(read_pool(data).live[CHUNKED].content == b"contents", "the message by itself")
    pool = read_pool(data)
    end = position(pool, pool.live[CHUNKED].record) + reader.RECORD_HEADER + len(payload)
    expect(CHUNKED not in read_pool(flipped(data, end - 1)).live, "a write that was cut short is no mail")
    later = with_frame(data, offset + BLOCK, batch + 1, batch, [(reader.WATERMARK, 1, LSN + 1, 0, b"")])
    left = read_pool(flipped(later, end - 1)).live[CHUNKED]
    expect(left.damaged and left.sender == b"broken@example.org" and len(left.recipients) == 2, f"{left}")
    expect(CHUNKED not in read_pool(flipped(later, end - 10)).live, "an envelope that is not right says nothing")
    failed = struct.pack("<IIQ", pool.segments[0].header["epoch"], 0, batch)
    reported = with_frame(later, offset + 2 * BLOCK, batch + 2, batch + 1, [(reader.BATCH_FAILED, 1, LSN + 2, 0, failed)])
    expect(CHUNKED not in read_pool(flipped(reported, end - 1)).live, "a refused write was never acknowledged")


def chunks_make_a_message_only_together():
    data, content = chunked()
    pool = read_pool(data)
    expect(not pool.problems and pool.live[CHUNKED].content == content, f"{pool.problems}")
    for missing in range(3):
        pool = read_pool(chunked({missing})[0])
        expect(CHUNKED not in pool.live and len(pool.live) == 3, f"without chunk {missing}: {pool.live.keys()}")


def bytes_count_only_in_their_place():
    """A frame in another place, or of another generation of its slot, does not check out."""
    name, data = newest()
    whole = read_all(data)
    segment = whole.segments[0]
    for frame in segment.frames:
        raw = segment.data[frame["offset"]:frame["offset"] + frame["bytes"]]
        for slot, offset in ((0, 0x20000), (1, frame["offset"])):
            at = base(whole, slot) + offset
            pool = read_all(data[:at] + raw + data[at + len(raw):])
            expect(mail(pool) == mail(whole), f"{name}: mail of a moved frame")
            expect(len(all_records(pool.data)) == len(all_records(data)), f"{name}: records of a moved frame")


def other_versions_are_refused_or_skipped():
    name, data = newest()
    every = range(reader.COPIES)
    refused(sealed_copies(data, every, lambda block: struct.pack_into("<H", block, 12, 3)), "format 3", name)
    refused(sealed_copies(data, every, lambda block: struct.pack_into("<I", block, 16, 2)), "features 0x2", name)
    minor = sealed_copies(data, every, lambda block: struct.pack_into("<H", block, 14, 9))
    expect(len(read_pool(minor).live) == 3, f"{name}: a higher minor version")
    data = without_checkpoint()
    offset, batch = free_offset(data)
    expect(len(read_pool(with_frame(data, offset, batch, 0, [(0x77, 1, LSN, 0, b"new")])).live) == 3, "a skippable type")
    refused(with_frame(data, offset, batch, 0, [(0x77, 0, LSN, 0, b"new")]), "record of type 0x77", "a type that is not")


def refused(data, text, name):
    try:
        read_pool(data)
    except Refused as why:
        expect(text in str(why), f"{name}: {why}")
        return
    raise Failed(f"{name}: it is read in spite of: {text}")


# Beside the tool.

def tool(folder, name, data):
    """What millrace-spool says: its report, and the files that it exports by id."""
    file, out = folder / f"{name}.spool", folder / name
    file.write_bytes(data)
    out.mkdir()
    run = subprocess.run([ARGUMENTS.tool, "inspect", "--json", "--messages", file], capture_output=True, text=True, timeout=20)
    expect(run.stdout.startswith("{"), f"{name}: inspect: {run.stdout}{run.stderr}")
    done = subprocess.run([ARGUMENTS.tool, "export", file, "--to", out], capture_output=True, text=True, timeout=20)
    expect(done.returncode in (0, 1), f"{name}: export: {done.stdout}{done.stderr}")
    return json.loads(run.stdout), {int(each.stem, 16): (each.read_bytes(), json.loads(each.with_suffix(".json").read_text()))
                                    for each in out.glob("*.eml")}


def agree(folder, name, data, status=True):
    """Without status: a STATUS is damaged, and export does not show what the checkpoint's entry has of it."""
    pool = read_pool(data)
    report, files = tool(folder, name, data)
    block = report["superblock"]
    for ours, theirs in (("shard", "shard"), ("generation", "generation"), ("epoch", "epoch"), ("pool_bytes", "pool_bytes"),
                         ("segment_bytes", "segment_bytes"), ("segment_count", "segment_count"), ("floor", "segment_floor"),
                         ("end_segment", "checkpoint_segment"), ("covered", "checkpoint_covers")):
        expect(pool.superblock[ours] == block[theirs], f"{name}: {ours} {pool.superblock[ours]}, {theirs} {block[theirs]}")
    expect(pool.superblock["identity"].hex() == block["pool"], f"{name}: identity {block['pool']}")
    expect(sum(map(bool, pool.superblock_copies)) == block["copies_valid"], f"{name}: copies {block['copies_valid']}")
    whole = {number: message for number, message in pool.live.items() if not message.damaged}
    expect(len(pool.live) == report["queued"]["messages"], f"{name}: queued {report['queued']}, read {pool.live.keys()}")
    # Mail of which only its entry in the checkpoint is left is counted, and not listed.
    listed = {int(each["id"], 16) for each in report["messages"]}
    expect(whole.keys() <= listed <= pool.live.keys(), f"{name}: listed {listed}, read {pool.live.keys()}")
    expect(whole.keys() <= files.keys(), f"{name}: exported {files.keys()}, read {whole.keys()}")
    states = {}
    for message in pool.live.values():
        for _, state, _, _ in message.recipients:
            states[state] = states.get(state, 0) + 1
    if all(message.recipients for message in pool.live.values()):
        expect(states == report["queued"]["recipients_by_state"], f"{name}: {report['queued']}, read {states}")
    for number, message in whole.items():
        content, said_of_it = files[number]
        expect(content == message.content, f"{name}: content of {number:x}")
        expect(said_of_it["sender"].encode() == message.sender, f"{name}: sender of {number:x}")
        place = said_of_it["place"]
        expect((place["slot"], place["offset"], place["segment"]) ==
               (message.record.slot, message.record.offset, message.record.segment), f"{name}: place of {number:x}: {place}")
        if not status:
            continue
        theirs = [(each["address"].encode(), each["state"], each["attempts"], each["last_code"]) for each in said_of_it["recipients"]]
        expect(theirs == message.recipients, f"{name}: recipients of {number:x}: {theirs}, {message.recipients}")
        expect(said_of_it["rounds"] == message.rounds, f"{name}: rounds of {number:x}")
        expect(said_of_it.get("last_error", "").encode() == message.last_error, f"{name}: last error of {number:x}")
        due = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(message.due // 1000)) if message.due else ""
        expect(said_of_it.get("due", "") == due, f"{name}: due of {number:x}: {said_of_it.get('due')}, {due}")


def the_tool_says_the_same():
    if not ARGUMENTS.tool:
        return "left out: no --tool"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name, data in images().items():
            agree(folder, name, data)
        agree(folder, "chunked", chunked()[0])
        agree(folder, "chunk_missing", chunked({1})[0])
        name, data = newest()
        whole = read_all(data)
        agree(folder, "superblocks", flipped(data, 50, 3 * BLOCK + 50))
        agree(folder, "header", flipped(data, base(whole, 0) + 50))
        for number, record in enumerate(all_records(data)):
            status, at = record.type != reader.STATUS, position(whole, record)
            agree(folder, f"record{number}", flipped(data, at + 16), status)
            if record.size:
                agree(folder, f"payload{number}", flipped(data, at + reader.RECORD_HEADER + record.size - 1), status)
        for slot, segment in whole.segments.items():
            for frame in segment.frames:
                at = base(whole, slot) + frame["offset"]
                agree(folder, f"frame{at}", flipped(data, at + 24))
        for name, data in images(encrypted=True).items():
            report, _ = tool(folder, name, data)
            key = read_pool(data).segments[0].header["key_id"].hex()
            expect(report["superblock"]["encrypted"] and key in report["problem"], f"{name}: {report}, key {key}")
    return None


CASES = (every_image_holds_its_messages, entries_agree_with_their_messages, every_checksum_is_right,
         an_encrypted_image_shows_what_needs_no_key, a_superblock_copy_changes, the_newest_generation_of_two_copies_counts,
         a_segment_header_copy_changes, a_frame_header_changes, a_record_header_changes, a_payload_changes,
         an_envelope_of_a_damaged_message_is_read_by_its_own_checksum, chunks_make_a_message_only_together,
         bytes_count_only_in_their_place, other_versions_are_refused_or_skipped, the_tool_says_the_same)


def main():
    global ARGUMENTS
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent / "queue" / "golden")
    parser.add_argument("--tool")
    ARGUMENTS = parser.parse_args()
    failures = 0
    for case in CASES:
        try:
            remark = case()
            print(f"ok      {case.__name__}" + (f" ({remark})" if remark else ""), flush=True)
        except Failed as why:
            failures += 1
            print(f"FAILED  {case.__name__}: {why}", flush=True)
        except Exception:
            failures += 1
            print(f"FAILED  {case.__name__}: {traceback.format_exc()}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
