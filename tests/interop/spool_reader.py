"""spool_reader.py: reads a spool pool, written from docs/spool-format.md alone.

It shares no code with the relay, so that the document and the relay can be held against each other. It only reads, takes
no lock and has no limit of memory: a tool for tests. Encrypted payloads stay closed: their checksums are verified, and
what the headers of their records say is told.

    pool = read_pool(bytes)     raises Refused
    pool.live                   id -> Message
    pool.ended                  ids with a TOMB or an ABORT
    pool.problems               what did not check out, as text
"""
import struct
from dataclasses import dataclass, field

BLOCK = 4096
SUPERBLOCK_AREA = 65536
COPIES = 4
FRAMES_FROM = 2 * BLOCK
FRAME_HEADER = 64
RECORD_HEADER = 32
TAG_BYTES = 16
BITMAP_BYTES = 2048
MASK = (1 << 64) - 1

MSG, BODY_CHUNK, MSG_COMMIT, STATUS, TOMB, ABORT = 1, 2, 3, 0x10, 0x20, 0x21
CHECKPOINT_PART, WATERMARK, BATCH_FAILED, CHECKPOINT_END = 0x40, 0x41, 0x42, 0x43
KNOWN_TYPES = {MSG, BODY_CHUNK, MSG_COMMIT, STATUS, TOMB, ABORT, CHECKPOINT_PART, WATERMARK, BATCH_FAILED, CHECKPOINT_END}
SKIPPABLE, ENCRYPTED = 1, 2
STATES = ("pending", "delivered", "bounced", "expired", "removed")


class Refused(Exception):
    """The document says that a pool like this one is not to be read."""


class Malformed(Exception):
    """Bytes whose checksum is right and whose fields are not."""


def _crc_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


CRC_TABLE = _crc_table()


def crc32c(data, start=0):
    value = start ^ 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ CRC_TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def _mix(value):
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
    return value ^ value >> 31


def place_hash(seed, segment, offset):
    return _mix(_mix((segment + 0x9E3779B97F4A7C15) & MASK) ^ (seed << 32 | offset))


def bit(bitmap, number):
    return bitmap[number // 8] >> number % 8 & 1


def blank(data):
    return not data.strip(b"\0")


def padded(length):
    return (length + 7) // 8 * 8


class Fields:
    """Takes numbers and bytes from the front of a payload."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        if self.at + count > len(self.data):
            raise Malformed("a field ends behind its payload")
        self.at += count
        return self.data[self.at - count:self.at]

    def numbers(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))

    def number(self, form):
        return self.numbers(form)[0]


# What stands at fixed places.

SUPERBLOCK_FIELDS = ("magic", "crc", "major", "minor", "incompatible", "compatible", "identity", "shard", "copy", "generation",
                     "epoch", "clean", "pool_bytes", "segment_bytes", "segment_count", "first_lsn", "first_segment", "floor",
                     "end_segment", "end_slot", "end_offset", "end_bytes", "zero", "covered")
SUPERBLOCK_FORM = "<8sIHHII16sIIQIIQIIQQQQIIIIQ"


def parse_superblock(block, copy):
    """The fields of one copy, or None when it does not check out."""
    values = dict(zip(SUPERBLOCK_FIELDS, struct.unpack_from(SUPERBLOCK_FORM, block)))
    if values["magic"] != b"MRPOOL01" or values["crc"] != crc32c(block[12:BLOCK], copy + 1) or values["copy"] != copy:
        return None
    check_version(values)
    values["bad"] = block[2048:BLOCK]
    values["agreed"] = block[12:44] + block[48:BLOCK]
    return values


SEGMENT_FIELDS = ("magic", "crc", "major", "minor", "incompatible", "compatible", "identity", "shard", "slot", "segment", "epoch",
                  "copy", "key_id", "nonce", "wrapped_key", "key_tag")
SEGMENT_FORM = "<8sIHHII16sIIQII8s12s32s16s"


def parse_segment_header(block, copy):
    values = dict(zip(SEGMENT_FIELDS, struct.unpack_from(SEGMENT_FORM, block)))
    if values["magic"] != b"MRSEGM01" or values["crc"] != crc32c(block[12:BLOCK], copy + 1) or values["copy"] != copy:
        return None
    check_version(values)
    return values


def check_version(values):
    if values["major"] not in (1, 2):
        raise Refused(f"format {values['major']}.{values['minor']}")
    if values["incompatible"] & ~1:
        raise Refused(f"incompatible features {values['incompatible']:#x}")


FRAME_FIELDS = ("magic", "crc", "major", "header_bytes", "shard", "segment", "batch", "watermark", "epoch", "offset", "bytes",
                "used", "records", "zero")
FRAME_FORM = "<4sIHHIQQQIIIIII"


@dataclass
class Record:
    segment: int
    slot: int
    offset: int
    type: int
    flags: int
    size: int               # payload without a tag
    lsn: int
    id: int
    sound: bool             # the payload's checksum is right
    payload: bytes          # without a tag; ciphertext when flag 2 is set
    frame: dict = None      # None when no frame's header says that it is there

    @property
    def locked(self):
        return bool(self.flags & ENCRYPTED)


class Segment:
    """One slot's segment: its header, frames and records."""

    def __init__(self, header, data, seed):
        self.header, self.data, self.seed = header, data, seed
        self.number, self.slot = header["segment"], header["slot"]
        self.encrypted = bool(header["incompatible"] & 1)
        self.frames, self.records, self.problems = [], [], []
        self.was_read = False

    def place(self, offset):
        return place_hash(self.seed, self.number, offset)

    def frame_at(self, offset):
        if self.data[offset:offset + 4] != b"MRBF" or offset + FRAME_HEADER > len(self.data):
            return None
        raw = self.data[offset:offset + FRAME_HEADER]
        frame = dict(zip(FRAME_FIELDS, struct.unpack(FRAME_FORM, raw)))
        if frame["crc"] != crc32c(raw[8:], self.place(offset) & 0xFFFFFFFF):
            return None
        fits = (frame["segment"] == self.number and frame["offset"] == offset and frame["shard"] == self.header["shard"]
                and frame["header_bytes"] == FRAME_HEADER and frame["bytes"] % BLOCK == 0
                and FRAME_HEADER <= frame["used"] <= frame["bytes"] <= len(self.data) - offset)
        return frame if fits else None

    def record_at(self, offset):
        """The record at this offset, or None when no header checks out there."""
        raw = self.data[offset:offset + RECORD_HEADER]
        if len(raw) < RECORD_HEADER or blank(raw):
            return None
        place = self.place(offset)
        crc, payload_crc, kind, flags, size, lsn, message = struct.unpack("<IIHHIQQ", raw)
        if crc != crc32c(raw[4:], place & 0xFFFFFFFF):
            return None
        stored = size + (TAG_BYTES if flags & ENCRYPTED else 0)
        payload = self.data[offset + RECORD_HEADER:offset + RECORD_HEADER + stored]
        sound = len(payload) == stored and payload_crc == crc32c(payload, place >> 32)
        return Record(self.number, self.slot, offset, kind, flags, size, lsn, message, sound, payload[:size])

    def read(self):
        """Every record that checks out, whether its frame does or not; between them each multiple of 8 is tried."""
        self.was_read = True
        offset, frame, end = FRAMES_FROM, None, 0
        while offset + RECORD_HEADER <= len(self.data):
            if frame and offset >= frame["offset"] + frame["used"]:
                self.check_count(frame)
                offset, frame = frame["offset"] + frame["bytes"], None
                continue
            if not frame and offset % BLOCK == 0:
                if blank(self.data[offset:offset + BLOCK]):
                    offset += BLOCK
                    continue
                frame = self.frame_at(offset)
                if frame:
                    self.frames.append(frame)
                    offset += FRAME_HEADER
                    continue
            record = self.record_at(offset)
            if not record:
                offset += 8
                continue
            record.frame = frame
            if not frame and offset >= end:
                self.problems.append(f"slot {self.slot}, offset {offset}: a record without a frame")
                end = (offset + BLOCK) // BLOCK * BLOCK
            offset += RECORD_HEADER + padded(record.size + (TAG_BYTES if record.flags & ENCRYPTED else 0))
            self.take(record)
        if frame:
            self.check_count(frame)
        return self

    def take(self, record):
        where = f"slot {self.slot}, offset {record.offset}"
        if record.type not in KNOWN_TYPES:
            if not record.flags & SKIPPABLE:
                raise Refused(f"{where}: record of type {record.type:#x}")
            return
        if record.size and record.locked != self.encrypted:
            self.problems.append(f"{where}: a record that is not genuine")
            return
        if not record.sound:
            self.problems.append(f"{where}: the payload of a record of type {record.type:#x} does not check out")
        self.records.append(record)

    def check_count(self, frame):
        first, end = frame["offset"], frame["offset"] + frame["used"]
        found = sum(first < record.offset < end for record in self.records)
        if found != frame["records"]:
            self.problems.append(f"slot {self.slot}, offset {first}: {found} of {frame['records']} records check out")


# What payloads say.

TEXT_TAGS = {1: "sender", 2: "envid", 3: "account", 4: "tenant", 5: "campaign", 6: "source", 7: "session"}


def parse_envelope(data):
    envelope = {name: b"" for name in TEXT_TAGS.values()}
    envelope["recipients"] = []
    fields = Fields(data)
    while fields.at < len(data):
        tag, length = fields.numbers("HH")
        value = Fields(fields.take(length))
        if tag in TEXT_TAGS:
            envelope[TEXT_TAGS[tag]] = value.data
        elif tag == 8:
            notify, length = value.numbers("BH")
            orcpt = value.take(length)
            envelope["recipients"].append({"notify": notify, "orcpt": orcpt, "address": value.data[value.at:]})
        elif tag == 9:
            names = ("arrival", "expiry", "family", "client", "port", "ret", "body", "flags")
            envelope.update(zip(names, value.numbers("qqB16sHBBB")))
        elif not tag & 0x8000:
            raise Malformed(f"envelope tag {tag}")
    if "arrival" not in envelope:
        raise Malformed("an envelope without tag 9")
    return envelope


def parse_message(record):
    """Prefix, envelope and what follows it. Raises Malformed when they do not fit together."""
    fields = Fields(record.payload)
    envelope_bytes, prelude_bytes, content_bytes, chunks, crc = fields.numbers("IIQII")
    raw = fields.take(envelope_bytes)
    rest = fields.data[fields.at:]
    if prelude_bytes > content_bytes:
        raise Malformed("the prelude is longer than the content")
    if record.type == MSG and (len(rest) != content_bytes or chunks):
        raise Malformed("a MSG that holds another number of bytes than its content has")
    if record.type == MSG_COMMIT and len(rest) != prelude_bytes:
        raise Malformed("a MSG_COMMIT that holds another number of bytes than its prelude has")
    right = crc32c(raw) == crc
    if record.sound and crc and not right:
        raise Malformed("the envelope's own checksum is wrong")
    return {"envelope": parse_envelope(raw), "prelude_bytes": prelude_bytes, "content_bytes": content_bytes, "chunks": chunks,
            "rest": rest, "envelope_right": bool(crc) and right}


def parse_chunk(payload):
    fields = Fields(payload)
    index, _, offset = fields.numbers("IIQ")
    return index, offset, fields.data[fields.at:]


def parse_status(payload):
    fields = Fields(payload)
    due, rounds, count, error_bytes, flags, _ = fields.numbers("QIIHHI")
    recipients = [fields.numbers("BBH") for _ in range(count)]
    error = fields.take(error_bytes)
    if any(state >= len(STATES) for state, _, _ in recipients):
        raise Malformed("an unknown state of a recipient")
    return {"due": due, "rounds": rounds, "recipients": recipients, "delay_sent": bool(flags & 1), "last_error": error}


def parse_location(fields):
    return dict(zip(("segment", "slot", "offset", "bytes"), fields.numbers("QIII")))


def parse_checkpoint_end(payload):
    fields = Fields(payload)
    begin, lsn, entries, further, parts = fields.numbers("QQQII")
    return {"begin": begin, "lsn": lsn, "entries": entries, "further": [fields.number("Q") for _ in range(further)],
            "parts": [parse_location(fields) for _ in range(parts)], "free": fields.take(BITMAP_BYTES)}


def parse_checkpoint_part(payload):
    fields = Fields(payload)
    count, texts = fields.numbers("II")
    texts = [fields.take(fields.number("H")) for _ in range(texts)]
    entries = []
    for _ in range(count):
        entry = dict(zip(("id", "status_lsn", "due"), fields.numbers("QQQ")))
        entry["location"] = parse_location(fields)
        names = ("content_bytes", "arrival", "expiry", "sender_hash", "recipient_hash")
        entry.update(zip(names, fields.numbers("IIIII")))
        try:
            for name in ("tenant", "account", "source", "last_error"):
                entry[name] = texts[fields.number("I")]
            entry["rounds"], recipients, chunks, flags, _ = fields.numbers("HHHBB")
            entry["delay_sent"] = bool(flags & 1)
            entry["domains"], entry["recipients"] = [], []
            for _ in range(recipients):
                domain, *state = fields.numbers("IBBH")
                entry["domains"].append(texts[domain])
                entry["recipients"].append(tuple(state))
        except IndexError:
            raise Malformed("an entry names a text that there is not") from None
        entry["chunks"] = [parse_location(fields) for _ in range(chunks)]
        entries.append(entry)
    return entries


def address_hash(address):
    return crc32c(address, 0x9E3779B9)


# Recovery.

@dataclass
class Message:
    id: int
    sender: bytes = None
    recipients: list = field(default_factory=list)      # (address, state, attempts, last code)
    due: int = 0
    rounds: int = 0
    last_error: bytes = b""
    content: bytes = None
    envelope: dict = None
    record: Record = None
    damaged: bool = False       # mail that cannot be delivered
    locked: bool = False        # encrypted: only what the record's header says is known


class Pool:
    def __init__(self, data):
        self.data = data
        self.problems, self.live, self.ended = [], {}, set()
        self.checkpoint, self.entries = None, {}
        self.superblock = self.choose_superblock()
        self.seed = crc32c(self.superblock["identity"], self.superblock["shard"])
        self.segments = self.read_headers()
        self.records = []

    def choose_superblock(self):
        copies = [parse_superblock(self.data[copy * BLOCK:(copy + 1) * BLOCK], copy) for copy in range(COPIES)]
        self.superblock_copies = copies
        self.problems += [f"copy {copy} of the superblock does not check out" for copy, each in enumerate(copies) if not each]
        agreed = [each["agreed"] for each in copies if each]
        two = [each for each in copies if each and agreed.count(each["agreed"]) >= 2]
        if not two:
            raise Refused("no two copies of the superblock agree")
        return max(two, key=lambda each: each["generation"])

    def slot_range(self, slot):
        size = self.superblock["segment_bytes"]
        return slot * size + (SUPERBLOCK_AREA if slot == 0 else 0), (slot + 1) * size

    def read_headers(self):
        """slot -> Segment. Of two copies that differ the one with the higher segment number counts."""
        found = {}
        for slot in range(self.superblock["segment_count"]):
            if bit(self.superblock["bad"], slot):
                continue
            begin, end = self.slot_range(slot)
            headers = []
            for copy in range(2):
                block = self.data[begin + copy * BLOCK:begin + (copy + 1) * BLOCK]
                header = parse_segment_header(block, copy)
                ours = header and all(header[name] == self.superblock[name] for name in ("identity", "shard"))
                if ours and header["slot"] == slot:
                    headers.append(header)
                elif not blank(block):
                    self.problems.append(f"slot {slot}: copy {copy} of the header does not check out")
            if headers:
                header = max(headers, key=lambda each: each["segment"])
                if header["segment"] >= self.superblock["floor"]:
                    found[slot] = Segment(header, self.data[begin:end], self.seed)
            elif not blank(self.data[begin:end]):
                self.problems.append(f"slot {slot}: no header, and it is not empty")
        return found

    def record_of(self, location, types):
        segment = self.segments.get(location["slot"])
        if not segment or segment.number != location["segment"]:
            return None
        record = segment.record_at(location["offset"])
        return record if record and record.type in types and record.locked == segment.encrypted else None

    def read_checkpoint(self):
        """Sets checkpoint and entries, or leaves them empty with a word on why."""
        block = self.superblock
        if not block["end_segment"]:
            return
        try:
            end = self.checkpoint_record({"segment": block["end_segment"], "slot": block["end_slot"],
                                          "offset": block["end_offset"], "bytes": block["end_bytes"]}, CHECKPOINT_END)
            checkpoint = parse_checkpoint_end(end.payload)
            entries = {}
            for location in checkpoint["parts"]:
                for entry in parse_checkpoint_part(self.checkpoint_record(location, CHECKPOINT_PART).payload):
                    entries[entry["id"]] = entry
            if len(entries) != checkpoint["entries"]:
                raise Malformed(f"{len(entries)} entries of {checkpoint['entries']}")
        except Malformed as why:
            self.problems.append(f"the checkpoint: {why}")
            return
        self.checkpoint, self.entries = checkpoint, entries

    def checkpoint_record(self, location, kind):
        record = self.record_of(location, (kind,))
        if not record or not record.sound or record.size != location["bytes"]:
            raise Malformed(f"its record in slot {location['slot']}, offset {location['offset']} does not check out")
        if record.locked:
            raise Malformed("it is encrypted")
        return record

    def read_log(self):
        for segment in self.segments.values():
            if (not self.checkpoint or segment.number >= self.checkpoint["begin"]
                    or segment.number in self.checkpoint["further"]):
                self.records += segment.read().records
                self.problems += segment.problems
        frames = [frame for segment in self.segments.values() for frame in segment.frames]
        self.watermarks = {}
        for frame in frames:
            if frame["batch"]:
                self.watermarks[frame["epoch"]] = max(self.watermarks.get(frame["epoch"], 0), frame["watermark"])
        self.failed = {struct.unpack("<IIQ", record.payload)[::2] for record in self.records
                       if record.type == BATCH_FAILED and record.sound and not record.locked}
        self.find_missing_frames(frames)

    def find_missing_frames(self, frames):
        """Gaps between frames that were found, where no segment between them has been freed or was left unread."""
        numbers = {segment.number for segment in self.segments.values() if segment.was_read}
        for epoch, watermark in self.watermarks.items():
            # The first log segment of an epoch has a number that is known, and batches count from 1.
            first = self.superblock["first_segment"] - (self.superblock["epoch"] - epoch << 32)
            seen = sorted((frame["batch"], frame["segment"]) for frame in frames if frame["batch"] and frame["epoch"] == epoch)
            for (batch, segment), (after, segment_after) in zip([(0, first)] + seen, seen + [(watermark + 1, seen[-1][1])]):
                if all(number in numbers for number in range(segment, segment_after + 1)):
                    self.problems += [f"epoch {epoch}: batch {number} is missing below the watermark"
                                      for number in range(batch + 1, min(after, watermark + 1)) if (epoch, number) not in self.failed]

    def acknowledged(self, record):
        """Whether the record's frame was durable for certain: that of a copy beside the log has the number 0."""
        frame = record.frame
        return (frame is not None and (frame["epoch"], frame["batch"]) not in self.failed
                and frame["batch"] <= self.watermarks.get(frame["epoch"], 0))

    def recover(self):
        self.read_checkpoint()
        self.read_log()
        self.ended = {record.id for record in self.records if record.type in (TOMB, ABORT) and record.sound}
        copies, chunks, statuses = {}, {}, {}
        for record in self.records:
            if record.type in (MSG, MSG_COMMIT):
                if not self.checkpoint or record.lsn >= self.checkpoint["lsn"]:
                    copies.setdefault(record.id, []).append(record)
            elif record.type == BODY_CHUNK and record.sound and not record.locked:
                chunks.setdefault(record.id, []).append(parse_chunk(record.payload))
            elif record.type == STATUS and record.sound:
                statuses.setdefault(record.id, []).append((record.lsn, None if record.locked else parse_status(record.payload)))
        for entry in self.entries.values():
            self.take_entry(entry, copies, chunks, statuses)
        for message in copies.keys() - self.ended:
            found = self.message_of(message, copies[message], chunks.get(message, []), statuses.get(message, []))
            if found:
                self.live[message] = found
        return self

    def take_entry(self, entry, copies, chunks, statuses):
        places = [entry["location"]] + entry["chunks"]
        if any(place["segment"] < self.superblock["floor"] for place in places):
            self.ended.add(entry["id"])
            return
        record = self.record_of(entry["location"], (MSG, MSG_COMMIT))
        if record and record.id == entry["id"] and record.size == entry["location"]["bytes"]:
            copies.setdefault(entry["id"], []).append(record)
        elif entry["id"] not in self.ended:
            self.problems.append(f"message {entry['id']:016x}: no record where its entry says")
            copies.setdefault(entry["id"], [])
        for place in entry["chunks"]:
            chunk = self.record_of(place, (BODY_CHUNK,))
            if chunk and chunk.sound and chunk.id == entry["id"]:
                chunks.setdefault(entry["id"], []).append(parse_chunk(chunk.payload))
        state = {name: entry[name] for name in ("due", "rounds", "recipients", "delay_sent", "last_error")}
        statuses.setdefault(entry["id"], []).append((entry["status_lsn"], state))

    def message_of(self, number, copies, chunks, statuses):
        """The copy with the highest LSN that can be read; without one, what can be told of a damaged one."""
        copies = sorted(copies, key=lambda each: each.lsn, reverse=True)
        if copies and copies[0].locked:
            sound = [each for each in copies if each.sound]
            return Message(number, record=sound[0], locked=True) if sound else None
        status = max(statuses, key=lambda each: each[0])[1] if statuses else None
        for record in copies:
            if record.sound:
                content, parsed = self.content_of(record, chunks)
                if content is not None:
                    return filled(Message(number, record=record, content=content), parsed["envelope"], status)
        for record in copies:
            if record.sound and number not in self.entries:
                continue        # a MSG_COMMIT whose chunks are not all there never was valid
            try:
                parsed = parse_message(record)
            except Malformed:
                continue
            if parsed["envelope_right"] and (number in self.entries or self.acknowledged(record)):
                return filled(Message(number, record=record, damaged=True), parsed["envelope"], status)
        return Message(number, damaged=True) if number in self.entries else None

    def content_of(self, record, chunks):
        try:
            parsed = parse_message(record)
        except Malformed as why:
            self.problems.append(f"message {record.id:016x}: {why}")
            return None, None
        if record.type == MSG:
            return parsed["rest"], parsed
        by_index = {index: (offset, body) for index, offset, body in chunks}
        body = b""
        for index in range(parsed["chunks"]):
            offset, part = by_index.get(index, (None, b""))
            if offset != len(body):
                self.problems.append(f"message {record.id:016x}: chunk {index} is missing")
                return None, None
            body += part
        if len(parsed["rest"]) + len(body) != parsed["content_bytes"]:
            self.problems.append(f"message {record.id:016x}: its chunks are not as long as its content")
            return None, None
        return parsed["rest"] + body, parsed


def filled(message, envelope, status):
    message.envelope, message.sender = envelope, envelope["sender"]
    states = [(0, 0, 0)] * len(envelope["recipients"])
    if status and len(status["recipients"]) == len(states):
        states = status["recipients"]
        message.due, message.rounds, message.last_error = status["due"], status["rounds"], status["last_error"]
    message.recipients = [(recipient["address"], STATES[state], attempts, code)
                          for recipient, (state, attempts, code) in zip(envelope["recipients"], states)]
    return message


def read_pool(data):
    return Pool(data).recover()


def unpack_sparse(image):
    """A golden image: magic, bytes of the pool (8), then pieces of offset (8), length (8) and bytes."""
    if image[:8] != b"MRSPARSE":
        raise Malformed("not a sparse image")
    fields = Fields(image[8:])
    data = bytearray(fields.number("Q"))
    while fields.at < len(fields.data):
        offset, length = fields.numbers("QQ")
        data[offset:offset + length] = fields.take(length)
    return bytes(data)
