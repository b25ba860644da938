#!/usr/bin/env python3
"""A second, independent verifier of signed telemetry blocks.

It follows docs/spec/{digest,receipt,nonce}.md and README.md of this folder,
with the standard library and the openssl command, and shares no code with the
collector. It reads the test vectors and says whether it comes to the same
verdicts.

    python3 verify.py [FILE…]        all *.json of this folder by default

It is meant to be read beside the specification: section numbers stand in the
comments. It is neither fast nor hardened.
"""

import base64
import collections
import glob
import hashlib
import hmac
import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from datetime import datetime, timezone


class Refused(Exception):
    """A block is refused, with a reason."""


class NotOTLP(Exception):
    """The request cannot be read at all."""


def sha256(*parts):
    h = hashlib.sha256()
    for p in parts:
        h.update(p)
    return h.digest()


def u64(n):
    return struct.pack(">Q", n)


# --- protobuf on the wire ----------------------------------------------------

VARINT, EIGHT, LEN, GROUP, END, FOUR = 0, 1, 2, 3, 4, 5


def read_varint(b, i):
    """Returns value, next index, and whether it is longer than 10 bytes."""
    n = shift = 0
    while True:
        if i >= len(b):
            raise NotOTLP("truncated varint")
        n |= (b[i] & 0x7F) << shift
        shift += 7
        i += 1
        if b[i - 1] < 0x80:
            return n & 0xFFFFFFFFFFFFFFFF, i, shift > 70


def take(b, i, n):
    if n > len(b) - i:
        raise NotOTLP("truncated field")
    return b[i : i + n], i + n


def read_fields(b):
    """All fields of a message: number, wire type, value (None: not to be read)."""
    out, i = [], 0
    while i < len(b):
        tag, i, long = read_varint(b, i)
        number, wire = tag >> 3, tag & 7
        if number == 0 or long:
            raise NotOTLP("no tag")
        if wire == VARINT:
            value, i, long = read_varint(b, i)
            value = None if long else value
        elif wire == EIGHT:
            value, i = take(b, i, 8)
        elif wire == FOUR:
            value, i = take(b, i, 4)
        elif wire == LEN:
            n, i, long = read_varint(b, i)
            if long:
                raise NotOTLP("no length")
            value, i = take(b, i, n)
        elif wire == GROUP:
            value, i = None, skip_group(b, i, number)
        else:
            raise NotOTLP("wire type %d" % wire)
        out.append((number, wire, value))
    return out


def skip_group(b, i, number):
    open_groups = [number]
    while open_groups:
        tag, i, _ = read_varint(b, i)
        number, wire = tag >> 3, tag & 7
        if wire == GROUP:
            open_groups.append(number)
        elif wire == END:
            if open_groups.pop() != number:
                raise NotOTLP("group")
        elif wire == VARINT:
            _, i, _ = read_varint(b, i)
        elif wire == EIGHT:
            _, i = take(b, i, 8)
        elif wire == FOUR:
            _, i = take(b, i, 4)
        elif wire == LEN:
            n, i, _ = read_varint(b, i)
            _, i = take(b, i, n)
        else:
            raise NotOTLP("wire type %d" % wire)
    return i


# --- digest.md §4: the fields ------------------------------------------------

# number, presence, type. rep, imp, exp, msg as in the specification; "oneof X"
# and "exp X" name the oneof that a field is a member of.
TABLES = """
ResourceMetrics: 1 msg Resource; 2 rep ScopeMetrics; 3 imp string
ResourceLogs: 1 msg Resource; 2 rep ScopeLogs; 3 imp string
ResourceSpans: 1 msg Resource; 2 rep ScopeSpans; 3 imp string
ScopeMetrics: 1 msg InstrumentationScope; 2 rep Metric; 3 imp string
ScopeLogs: 1 msg InstrumentationScope; 2 rep LogRecord; 3 imp string
ScopeSpans: 1 msg InstrumentationScope; 2 rep Span; 3 imp string
Resource: 1 rep KeyValue; 2 imp uint32; 3 rep EntityRef
EntityRef: 1 imp string; 2 imp string; 3 rep string; 4 rep string
InstrumentationScope: 1 imp string; 2 imp string; 3 rep KeyValue; 4 imp uint32
Metric: 1 imp string; 2 imp string; 3 imp string; 5 oneof.data Gauge; 7 oneof.data Sum; 9 oneof.data Histogram; 10 oneof.data ExponentialHistogram; 11 oneof.data Summary; 12 rep KeyValue
Gauge: 1 rep NumberDataPoint
Sum: 1 rep NumberDataPoint; 2 imp enum; 3 imp bool
Histogram: 1 rep HistogramDataPoint; 2 imp enum
ExponentialHistogram: 1 rep ExponentialHistogramDataPoint; 2 imp enum
Summary: 1 rep SummaryDataPoint
NumberDataPoint: 2 imp fixed64; 3 imp fixed64; 4 exp.value double; 5 rep Exemplar; 6 exp.value fixed64; 7 rep KeyValue; 8 imp uint32
HistogramDataPoint: 2 imp fixed64; 3 imp fixed64; 4 imp fixed64; 5 exp double; 6 packed fixed64; 7 packed double; 8 rep Exemplar; 9 rep KeyValue; 10 imp uint32; 11 exp double; 12 exp double
ExponentialHistogramDataPoint: 1 rep KeyValue; 2 imp fixed64; 3 imp fixed64; 4 imp fixed64; 5 exp double; 6 imp sint32; 7 imp fixed64; 8 msg Buckets; 9 msg Buckets; 10 imp uint32; 11 rep Exemplar; 12 exp double; 13 exp double; 14 imp double
Buckets: 1 imp sint32; 2 packed uint64
SummaryDataPoint: 2 imp fixed64; 3 imp fixed64; 4 imp fixed64; 5 imp double; 6 rep ValueAtQuantile; 7 rep KeyValue; 8 imp uint32
ValueAtQuantile: 1 imp double; 2 imp double
Exemplar: 2 imp fixed64; 3 exp.value double; 4 imp id8; 5 imp id16; 6 exp.value fixed64; 7 rep KeyValue
LogRecord: 1 imp fixed64; 2 imp enum; 3 imp string; 5 msg AnyValue; 6 rep KeyValue; 7 imp uint32; 8 imp fixed32; 9 imp id16; 10 imp id8; 11 imp fixed64; 12 imp string
Span: 1 imp id16; 2 imp id8; 3 imp string; 4 imp id8; 5 imp string; 6 imp enum; 7 imp fixed64; 8 imp fixed64; 9 rep KeyValue; 10 imp uint32; 11 rep Event; 12 imp uint32; 13 rep Link; 14 imp uint32; 15 msg Status; 16 imp fixed32
Event: 1 imp fixed64; 2 imp string; 3 rep KeyValue; 4 imp uint32
Link: 1 imp id16; 2 imp id8; 3 imp string; 4 rep KeyValue; 5 imp uint32; 6 imp fixed32
Status: 2 imp string; 3 imp enum
AnyValue: 1 oneof.value string; 2 oneof.value bool; 3 oneof.value uint64; 4 oneof.value double; 5 oneof.value ArrayValue; 6 oneof.value KeyValueList; 7 oneof.value bytes
ArrayValue: 1 rep AnyValue
KeyValueList: 1 rep KeyValue
KeyValue: 1 imp string; 2 msg AnyValue; 3 imp uint64
"""

Field = collections.namedtuple("Field", "presence oneof type wire")

WIRE = {
    "fixed64": EIGHT, "double": EIGHT, "fixed32": FOUR, "uint32": VARINT, "uint64": VARINT,
    "enum": VARINT, "bool": VARINT, "sint32": VARINT,
}  # everything else is LEN


def load_tables():
    tables = {}
    for line in TABLES.strip().splitlines():
        name, fields = line.split(": ")
        tables[name] = {}
        for f in fields.split("; "):
            number, presence, kind = f.split()
            presence, _, oneof = presence.partition(".")
            wire = LEN if presence == "packed" else WIRE.get(kind, LEN)
            tables[name][int(number)] = Field(presence, oneof, kind, wire)
    return tables


MESSAGES = load_tables()


def check_readable(kind, b):
    """Raises NotOTLP when a message is truncated anywhere. Not recursive, since
    values may nest as deep as the sender likes."""
    todo = [(kind, b)]
    while todo:
        kind, b = todo.pop()
        for number, wire, value in read_fields(b):
            f = MESSAGES[kind].get(number)
            if f and f.type in MESSAGES and wire == LEN:
                todo.append((f.type, value))


# --- digest.md §2.1: reserved keys -------------------------------------------

RECEIPT, MANIFEST = PROOF = b"telemark.receipt", b"telemark.manifest"
KELVIN, LONG_S = b"\xe2\x84\xaa", b"\xc5\xbf"


def reserved(key):
    if key[:7].lower() != b"telemar":  # bytes.lower is ASCII only
        return False
    rest = key[7:]
    if rest[:1] in (b"k", b"K"):
        rest = rest[1:]
    elif rest[:3] == KELVIN:
        rest = rest[3:]
    else:
        return False
    if rest == b"":
        return True
    return not (rest[:1].isalnum() or rest[:2] == LONG_S or rest[:3] == KELVIN)


# --- digest.md §3: the canonical encoding C ----------------------------------

NAN = b"\x00\x00\x00\x00\x00\x00\xf8\x7f"
MAX_DEPTH = 64


def varint(n):
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def double(raw):
    return NAN if math.isnan(struct.unpack("<d", raw)[0]) else bytes(raw)


class Encoder:
    """Writes C and notes what no block may hold."""

    def __init__(self):
        self.found = set()

    def fields(self, kind, b):
        """The known fields of a message by number, in transmitted order; what
        must not be skipped is noted (§2.2)."""
        table, out, oneofs = MESSAGES[kind], {}, {}
        for number, wire, value in read_fields(b):
            f = table.get(number)
            if kind == "AnyValue" and number == 8:
                self.found.add("hidden_field")
                continue
            if f is None or wire != f.wire or value is None:
                self.found.add("hidden_field")
                continue
            if f.presence != "rep" and number in out:
                self.found.add("hidden_field")
                if f.type in MESSAGES:  # protobuf merges such messages
                    value = memoryview(bytes(out[number][0]) + bytes(value))
                out[number] = []
            if f.oneof and oneofs.setdefault(f.oneof, number) != number:
                self.found.add("hidden_field")
                out.pop(oneofs[f.oneof], None)
                oneofs[f.oneof] = number
            out.setdefault(number, []).append(value)
        return out

    def text(self, raw):
        raw = bytes(raw)
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError:
            self.found.add("invalid_utf8")
        return varint(len(raw)) + raw

    def scalar(self, kind, value):
        """The bytes of a value, and whether it is zero, empty or false."""
        if kind == "string":
            return self.text(value), len(value) == 0
        if kind == "bytes":
            return varint(len(value)) + bytes(value), len(value) == 0
        if kind == "double":
            return double(value), struct.unpack("<d", value)[0] == 0
        if kind in ("fixed64", "fixed32"):
            return bytes(value), not any(value)
        if kind in ("id16", "id8"):
            if len(value) not in (0, int(kind[2:])):
                self.found.add("invalid_id")
            return bytes(value), not any(value)
        if kind == "bool":
            return (b"\x01" if value else b"\x00"), value == 0
        if kind in ("uint32", "sint32") and value > 0xFFFFFFFF:
            self.found.add("hidden_field")
        if kind == "enum" and not (value < 1 << 31 or value >= (1 << 64) - (1 << 31)):
            self.found.add("hidden_field")
        return varint(value), value == 0

    def packed(self, kind, raw):
        out, n = b"", 0
        if kind == "uint64":
            i = 0
            while i < len(raw):
                value, i, long = read_varint(raw, i)
                if long:
                    self.found.add("hidden_field")
                out += varint(value)
                n += 1
        else:
            if len(raw) % 8:
                raise NotOTLP("packed list")
            for i in range(0, len(raw), 8):
                out += double(raw[i : i + 8]) if kind == "double" else bytes(raw[i : i + 8])
                n += 1
        return varint(n) + out, n == 0

    def message(self, kind, b, skip=(), skip_in_data=()):
        """C of a message without its end mark. skip leaves out fields, though
        they are looked at; skip_in_data does so in the data of a metric."""
        out = b""
        fields = self.fields(kind, b)
        for number in sorted(fields):
            f = MESSAGES[kind][number]
            part = b""
            for value in fields[number]:
                part += self.field(kind, number, f, value, skip_in_data)
            if number not in skip:
                out += part
        return out

    def field(self, kind, number, f, value, skip_in_data):
        tag = varint(number << 3 | f.wire)
        if f.type == "KeyValue":
            key, encoded = self.key_value(value, 1)
            if not (kind == "Resource" and key in PROOF):
                self.check_key(key)
            return tag + encoded
        if f.type == "AnyValue":  # the body of a log record
            encoded = self.any_value(value, 1)
            return b"" if encoded == b"\x00" else tag + encoded
        if f.type in MESSAGES:
            encoded = self.message(f.type, value, skip=skip_in_data)
            if f.presence == "msg" and encoded == b"":
                return b""
            return tag + encoded + b"\x00"
        if f.presence == "packed":
            encoded, zero = self.packed(f.type, value)
            return b"" if zero else tag + encoded
        encoded, zero = self.scalar(f.type, value)
        return b"" if zero and f.presence == "imp" else tag + encoded

    def check_key(self, key):
        if reserved(key):
            self.found.add("reserved_attribute")

    def key_value(self, b, depth):
        fields = self.fields("KeyValue", b)
        key = bytes(fields.get(1, [b""])[0])
        if fields.get(3, [0])[0] != 0:
            self.found.add("hidden_field")
        return key, self.text(key) + self.any_value(fields.get(2, [b""])[0], depth)

    def any_value(self, b, depth):
        if depth > MAX_DEPTH:
            self.found.add("too_deep")
            return b""
        fields = self.fields("AnyValue", b)
        if not fields:
            return b"\x00"
        (number, (value,)), = fields.items()
        f = MESSAGES["AnyValue"][number]
        tag = varint(number << 3 | f.wire)
        if f.type == "ArrayValue":
            out = b""
            for e in self.fields("ArrayValue", value).get(1, []):
                out += b"\x0a" + self.any_value(e, depth + 1)
            return tag + out + b"\x00"
        if f.type == "KeyValueList":
            out = b""
            for e in self.fields("KeyValueList", value).get(1, []):
                key, encoded = self.key_value(e, depth + 1)
                self.check_key(key)
                out += b"\x0a" + encoded
            return tag + out + b"\x00"
        return tag + self.scalar(f.type, value)[0]


# --- digest.md §5, §6: blocks ------------------------------------------------

SIGNAL = {"metrics": b"M", "logs": b"L", "traces": b"T"}
BLOCK = {"metrics": "ResourceMetrics", "logs": "ResourceLogs", "traces": "ResourceSpans"}
SCOPE = {"metrics": "ScopeMetrics", "logs": "ScopeLogs", "traces": "ScopeSpans"}
ITEM = {"logs": "LogRecord", "traces": "Span"}
DATA = {5: "Gauge", 7: "Sum", 9: "Histogram", 10: "ExponentialHistogram", 11: "Summary"}

Attribute = collections.namedtuple("Attribute", "key kind value encoded")

# In this order a fault of the content is named (§2).
FAULTS = ["reserved_attribute", "too_deep", "invalid_utf8", "empty_container", "hidden_field", "invalid_id"]


class Block:
    def __init__(self, signal, raw):
        self.signal, self.raw = signal, raw
        self.mark = SIGNAL[signal]
        self.encoder = Encoder()
        self.parts = self.encoder.fields(BLOCK[signal], raw)
        self.resource = self.parts.get(1, [b""])[0]
        self.attributes = []
        for kv in self.encoder.fields("Resource", self.resource).get(1, []):
            key, encoded = self.encoder.key_value(kv, 1)
            value = self.encoder.fields("KeyValue", kv).get(2, [b""])[0]
            members = self.encoder.fields("AnyValue", value)
            kind = next(iter(members), 0)
            self.attributes.append(Attribute(key, kind, bytes(members[kind][0]) if kind in (1, 7) else None, encoded))

    def proof(self):
        """receipt.md §9 step 1. Returns receipt and manifest, or None for each."""
        out = []
        for key in PROOF:
            if sum(a.key == key for a in self.attributes) > 1:
                raise Refused("receipt_not_unique")
        for key in PROOF:
            found = [a for a in self.attributes if a.key == key]
            if found and found[0].kind != 7:
                raise Refused("receipt_wrong_type")
            out.append(found[0].value if found else None)
        return out

    def values(self, key, signed=None):
        """The texts of the covered resource attributes of a key."""
        key = key.encode()
        if signed is not None and key not in signed:
            return []
        return [a.value.decode() for a in self.attributes if a.key == key and a.kind == 1]

    def covered(self, keys, cut):
        """The attributes that C(Resource) covers; cut leaves out those that stand
        behind the proof."""
        out = []
        for a in self.attributes:
            if a.key in PROOF:
                if cut:
                    break
                continue
            if keys is None or a.key in keys:
                out.append(a)
        return out

    def encode_resource(self, keys, cut=False):
        out = b"".join(b"\x0a" + a.encoded for a in self.covered(keys, cut))
        return out + self.encoder.message("Resource", self.resource, skip=(1,))

    def scopes(self):
        return self.parts.get(2, [])

    def examine(self):
        """Walks everything once for what no block may hold. Returns the number of
        items."""
        e, items = self.encoder, 0
        e.message("Resource", self.resource)
        for raw in self.parts.get(3, []):
            e.text(raw)
        for scope in self.scopes():
            e.message(SCOPE[self.signal], scope)
            found = self.items_of(scope)
            if not found or any(not points for _, points in found):
                e.found.add("empty_container")
            items += sum(len(points) for _, points in found)
        if items == 0:
            e.found.add("empty_container")
        return items

    def items_of(self, scope):
        """[(metric or None, [item…])…] of a scope."""
        members = self.encoder.fields(SCOPE[self.signal], scope).get(2, [])
        if self.signal != "metrics":
            return [(None, members)] if members else []
        out = []
        for metric in members:
            fields = self.encoder.fields("Metric", metric)
            points = []
            for number, kind in DATA.items():
                for data in fields.get(number, []):
                    points += self.encoder.fields(kind, data).get(1, [])
            out.append((metric, points))
        return out

    def point_type(self, metric):
        fields = self.encoder.fields("Metric", metric)
        kind = next(DATA[n] for n in DATA if n in fields)
        return MESSAGES[kind][1].type

    def whole_digest(self, keys, cut=False):
        e = self.encoder
        out = b""
        resource = self.encode_resource(keys, cut)
        if resource:
            out += b"\x0a" + resource + b"\x00"
        for scope in self.scopes():
            out += b"\x12" + e.message(SCOPE[self.signal], scope) + b"\x00"
        for url in self.parts.get(3, []):
            if url:
                out += b"\x1a" + e.text(url)
        return sha256(b"telemark-block-v1\0", self.mark, out)

    def item_digests(self, keys, cut=False):
        e, out = self.encoder, []
        resource = sha256(b"telemark-resource-v1\0", self.mark, self.encode_resource(keys, cut))
        for scope in self.scopes():
            named = e.fields(SCOPE[self.signal], scope).get(1, [b""])[0]
            parent = sha256(b"telemark-scope-v1\0", resource, e.message("InstrumentationScope", named))
            for metric, items in self.items_of(scope):
                over, kind = parent, ITEM.get(self.signal)
                if metric is not None:
                    header = e.message("Metric", metric, skip=(12,), skip_in_data=(1,))
                    over, kind = sha256(b"telemark-metric-v1\0", parent, header), self.point_type(metric)
                for item in items:
                    out.append(sha256(b"telemark-item-v1\0", self.mark, over, e.message(kind, item)))
        return out

    def manifest_digest(self, manifest):
        return sha256(b"telemark-items-v1\0", self.mark, u64(len(manifest) // 32), manifest)

    def behind_proof(self):
        seen = False
        for a in self.attributes:
            if a.key in PROOF:
                seen = True
            elif seen:
                return True
        return False


def split_manifest(manifest):
    return [manifest[i : i + 32] for i in range(0, len(manifest), 32)]


Arrived = collections.namedtuple("Arrived", "items total places added")


def check_content(block, r, manifest):
    """digest.md §2, §5, §6: what arrived against what was signed."""
    if manifest is not None:
        if len(manifest) == 0 or len(manifest) % 32:
            raise Refused("manifest_malformed")
        if len(manifest) // 32 != r.items or block.manifest_digest(manifest) != r.digest:
            raise Refused("manifest_mismatch")
    items = block.examine()
    for fault in FAULTS:
        if fault in block.encoder.found:
            raise Refused(fault)
    added = []
    if r.keys is not None:
        if [a.key for a in block.covered(r.keys, False)] != r.keys:
            raise Refused("resource_changed")
        added = [a.key for a in block.attributes if a.key not in r.keys and a.key not in PROOF]
    appended = r.keys is None and block.behind_proof()
    if manifest is None:
        if block.whole_digest(r.keys) != r.digest:
            if appended and block.whole_digest(None, cut=True) == r.digest:
                raise Refused("resource_enriched")
            raise Refused("block_split" if items < r.items else "digest_mismatch")
        if items != r.items:
            raise Refused("digest_mismatch")
        return Arrived(items, items, None, added)
    listed = split_manifest(manifest)
    places = collections.defaultdict(list)
    for i, d in enumerate(listed):
        places[d].append(i)
    digests = block.item_digests(r.keys)
    if any(d not in places for d in digests):
        if appended and all(d in places for d in block.item_digests(None, cut=True)):
            raise Refused("resource_enriched")
        raise Refused("item_mismatch")
    return Arrived(items, len(listed), [places[d] for d in digests], added)


# --- CBOR, RFC 8949 ----------------------------------------------------------


class NotCBOR(Exception):
    pass


Item = collections.namedtuple("Item", "kind value")  # uint nint bytes text array map tag simple float


def cbor_item(b, i=0, level=0):
    """Reads one well-formed item in any encoding. Returns it and the next index."""
    if level > 64 or i >= len(b):
        raise NotCBOR()
    major, info = b[i] >> 5, b[i] & 31
    i += 1
    argument, indefinite = info, info == 31
    if 24 <= info <= 27:
        width = 1 << info - 24
        if i + width > len(b):
            raise NotCBOR()
        argument = int.from_bytes(b[i : i + width], "big")
        i += width
    elif 28 <= info <= 30 or indefinite and major in (0, 1, 6):
        raise NotCBOR()
    if major == 0:
        return Item("uint", argument), i
    if major == 1:
        return Item("nint", -1 - argument), i
    if major in (2, 3):
        kind = "bytes" if major == 2 else "text"
        if not indefinite:
            if argument > len(b) - i:
                raise NotCBOR()
            return Item(kind, b[i : i + argument]), i + argument
        out = b""
        while b[i : i + 1] != b"\xff":
            if i >= len(b) or b[i] >> 5 != major or b[i] & 31 == 31:
                raise NotCBOR()
            piece, i = cbor_item(b, i, level + 1)
            out += piece.value
        return Item(kind, out), i + 1
    if major in (4, 5):
        items = []
        count = argument * (1 if major == 4 else 2)
        while b[i : i + 1] != b"\xff" if indefinite else len(items) < count:
            item, i = cbor_item(b, i, level + 1)
            items.append(item)
        if indefinite:
            i += 1
        if major == 4:
            return Item("array", items), i
        if len(items) % 2:
            raise NotCBOR()
        return Item("map", list(zip(items[::2], items[1::2]))), i
    if major == 6:
        content, i = cbor_item(b, i, level + 1)
        return Item("tag", (argument, content)), i
    if info in (25, 26, 27):
        form = {25: ">e", 26: ">f", 27: ">d"}[info]
        return Item("float", struct.unpack(form, argument.to_bytes(1 << info - 24, "big"))[0]), i
    if indefinite or info == 24 and argument < 32:
        raise NotCBOR()
    return Item("simple", argument), i


def cbor_whole(b):
    item, i = cbor_item(b)
    if i != len(b):
        raise NotCBOR()
    return item


def cbor_head(major, n):
    if n < 24:
        return bytes([major << 5 | n])
    for info, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if n < 1 << 8 * width:
            return bytes([major << 5 | info]) + n.to_bytes(width, "big")
    raise NotCBOR()


def cbor_float(x):
    for form, head in ((">e", 0xF9), (">f", 0xFA), (">d", 0xFB)):
        try:
            raw = struct.pack(form, x)
        except OverflowError:
            continue
        if struct.pack(">d", struct.unpack(form, raw)[0]) == struct.pack(">d", x):
            return bytes([head]) + raw
    raise NotCBOR()


def cbor_encode(item):
    """Core deterministic encoding, RFC 8949 §4.2.1."""
    kind, v = item
    if kind == "uint":
        return cbor_head(0, v)
    if kind == "nint":
        return cbor_head(1, -1 - v)
    if kind in ("bytes", "text"):
        return cbor_head(2 if kind == "bytes" else 3, len(v)) + v
    if kind == "array":
        return cbor_head(4, len(v)) + b"".join(map(cbor_encode, v))
    if kind == "map":
        pairs = sorted((cbor_encode(k), cbor_encode(x)) for k, x in v)
        return cbor_head(5, len(v)) + b"".join(k + x for k, x in pairs)
    if kind == "tag":
        return cbor_head(6, v[0]) + cbor_encode(v[1])
    if kind == "float":
        return cbor_float(v)
    return cbor_head(7, v) if v < 24 else bytes([0xF8, v])


def cbor_plain(item, depth=1):
    """receipt.md §8 row 4: is this of the few kinds that receipts are made of?"""
    kind, v = item
    if kind in ("tag", "simple"):
        return False
    if kind == "float":
        return math.isfinite(v)
    if kind == "text":
        try:
            v.decode("utf-8")
        except UnicodeDecodeError:
            return False
        return True
    if kind == "array":
        return depth <= 4 and all(cbor_plain(x, depth + 1) for x in v)
    if kind == "map":
        return depth <= 4 and len(v) <= 16 and all(may_be_label(k) and cbor_plain(x, depth + 1) for k, x in v)
    return True


def in_64_bits(item):
    return item.kind not in ("uint", "nint") or -(1 << 63) <= item.value < 1 << 63


def may_be_label(item):
    return item.kind in ("uint", "nint", "text", "float") and cbor_plain(item) and in_64_bits(item)


def has_twice(item):
    """Does any map hold a label twice?"""
    kind, v = item
    if kind == "array":
        return any(map(has_twice, v))
    if kind == "map":
        labels = [cbor_encode(k) for k, _ in v]
        return len(set(labels)) < len(labels) or any(has_twice(x) for _, x in v)
    return False


def label(item):
    if item.kind == "float":
        return item  # which is no integer, though Python finds 1.0 under 1
    return item.value.decode() if item.kind == "text" else item.value


def as_dict(item):
    return {label(k): v for k, v in item.value}


# --- receipt.md §8: decoding -------------------------------------------------

PROFILE = b"tag:telemark-otel.github.io,2026:receipt-v1"
AGILE = PROFILE + b"-agile"
# COSE number: profile, length of a signature, openssl's options
SIGNATURES = {
    -7: (PROFILE, 64, ["-sha256"]),
    -35: (AGILE, 96, ["-sha384"]),
    -37: (AGILE, 256, ["-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:-2"]),
}
MAX_TIME, MAX_COUNT = 253402300799, (1 << 63) - 1

PROTECTED = {1: "int", 4: "bytes", 15: "map", 395: "int"}
CLAIMS = {
    3: "text", 6: "uint", 10: "bytes", 256: "bytes", 264: "map", 265: "text",
    "seq": "uint", "src": "text", "prev": "bytes", "size": "uint", "epoch": "uint",
}
LOCATION = {1: "number", 2: "number", 3: "number", 4: "number", 8: "uint", 9: "uint"}
UNPROTECTED = {396: "map", "d": "bytes", "i": "uint", "k": "array", "n": "uint", "s": "text"}


def is_kind(item, kind):
    if kind == "int":
        return item.kind in ("uint", "nint")
    if kind == "number":
        return item.kind in ("float", "uint", "nint")
    return item.kind == kind


def right_types(d, types):
    return all(is_kind(v, types[k]) for k, v in d.items() if k in types)


def right_labels(d, types, optional=()):
    return set(d) <= set(types) and set(types) - set(optional) <= set(d)


def printable(text, most):
    return 1 <= len(text) <= most and all(0x21 <= c <= 0x7E for c in text)


def require(condition, why):
    if not condition:
        raise Refused(why)


Receipt = collections.namedtuple(
    "Receipt",
    "protected signature alg kid aud iat nonce ueid location source epoch seq size prev "
    "tree_size index path stream number digest items keys")


def decode_receipt(raw):
    bad = "receipt_malformed"
    require(len(raw) <= 16384, "receipt_too_large")  # row 1
    try:
        envelope = cbor_whole(raw)
    except NotCBOR:
        raise Refused(bad) from None
    require(envelope.kind == "tag" and envelope.value[0] == 18, bad)  # row 2
    parts = envelope.value[1]
    require(parts.kind == "array" and len(parts.value) == 4, bad)
    protected, unprotected, payload, signature = parts.value
    require(protected.kind == "bytes" and unprotected.kind == "map", bad)
    require(payload == Item("simple", 22), bad)
    require(signature.kind == "bytes", bad)
    require(len(signature.value) == 64 or profile_of(protected.value) == AGILE and len(signature.value) in (96, 256), bad)
    require(len(protected.value) <= 1024, "receipt_too_large")  # row 1, too
    statement = decode_statement(protected.value)
    require(len(signature.value) == SIGNATURES[statement["alg"]][1], bad)
    proof = decode_unprotected(unprotected, cbor_encode(envelope) == raw, statement["size"])
    return Receipt(protected=protected.value, signature=signature.value, **statement, **proof)


def profile_of(raw):
    """The text of the profile claim in protected header bytes, or None."""
    try:
        header = cbor_whole(raw)
    except NotCBOR:
        return None
    if header.kind == "map":
        for k, claims in header.value:
            if k == Item("uint", 15) and claims.kind == "map":
                for l, v in claims.value:
                    if l == Item("uint", 265) and v.kind == "text" and cbor_plain(v):
                        return v.value
    return None


def decode_statement(raw):
    bad = "receipt_malformed"
    try:
        header = cbor_whole(raw)
    except NotCBOR:
        raise Refused(bad) from None
    require(profile_of(raw) in (None, PROFILE, AGILE), "profile_unknown")  # row 3
    require(header.kind == "map" and cbor_plain(header), bad)  # row 4
    h = as_dict(header)
    require(right_types(h, PROTECTED) and all(in_64_bits(h[n]) for n in (1, 395) if n in h), bad)
    claims = h.get(15, Item("map", []))
    c = as_dict(claims)
    require(right_types(c, CLAIMS), bad)
    where = as_dict(c[264]) if 264 in c else None
    require(where is None or right_types(where, LOCATION), bad)

    labels = "receipt_labels"  # row 5
    require(right_labels(h, PROTECTED) and right_labels(c, CLAIMS, (10, 264, "src")), labels)
    require((264 in c) == ("src" in c), labels)
    require(where is None or right_labels(where, LOCATION, (3, 4, 8, 9)), labels)

    order = "receipt_not_deterministic"  # row 6
    require(not has_twice(header) and cbor_encode(header) == raw, order)
    require(where is None or all(where[k].kind == "float" for k in (1, 2, 3, 4) if k in where), order)
    require(h[395].value == 1, "algorithm_unknown")  # row 7
    require(SIGNATURES.get(h[1].value, (None,))[0] == c[265].value, "algorithm_unknown")
    nonce = c[10].value if 10 in c else None
    require(nonce is None or 8 <= len(nonce) <= 64, "nonce_malformed")  # row 8

    s = {  # row 9
        "alg": h[1].value, "kid": h[4].value, "aud": c[3].value, "iat": c[6].value, "nonce": nonce,
        "ueid": c[256].value, "location": where and {k: v.value for k, v in where.items()},
        "source": c["src"].value if "src" in c else None,
        "epoch": c["epoch"].value, "seq": c["seq"].value, "size": c["size"].value, "prev": c["prev"].value,
    }
    require(len(s["kid"]) == 34 and s["kid"][:2] == b"\x00\x0b", bad)
    require(1 <= len(s["aud"]) <= 128 and s["iat"] <= MAX_TIME, bad)
    require(len(s["ueid"]) == 33 and s["ueid"][0] == 1 and len(s["prev"]) == 32, bad)
    require(1 <= s["seq"] <= MAX_COUNT and 1 <= s["epoch"] <= MAX_COUNT and 1 <= s["size"] <= 65536, bad)
    if where is not None:
        l = s["location"]
        require(-90 <= l[1] <= 90 and -180 <= l[2] <= 180 and l.get(4, 0) >= 0, bad)
        require(l.get(8, 0) <= MAX_TIME and l.get(9, 0) <= MAX_COUNT and printable(s["source"], 32), bad)
    return s


def decode_unprotected(header, deterministic, size):
    bad = "receipt_malformed"
    require(cbor_plain(header), bad)  # row 10
    u = as_dict(header)
    require(right_types(u, UNPROTECTED), bad)
    require("d" not in u or len(u["d"].value) == 32, bad)
    require("k" not in u or all(k.kind == "text" for k in u["k"].value), bad)
    proofs = as_dict(u[396]) if 396 in u else {}
    if -1 in proofs:
        require(proofs[-1].kind == "array" and all(p.kind == "bytes" for p in proofs[-1].value), bad)
    labels = "receipt_labels"  # row 11
    require(right_labels(u, UNPROTECTED, ("k",)) and set(proofs) <= {-1}, labels)
    require(-1 in proofs and len(proofs[-1].value) == 1, "proof_count")  # row 12

    broken = "proof_malformed"  # row 13
    raw = proofs[-1].value[0].value
    try:
        proof = cbor_whole(raw)
    except NotCBOR:
        raise Refused(broken) from None
    require(proof.kind == "array" and [x.kind for x in proof.value] == ["uint", "uint", "array"], broken)
    tree_size, index, path = (x.value for x in proof.value)
    require(all(p.kind == "bytes" and len(p.value) == 32 for p in path), broken)

    order = "receipt_not_deterministic"  # row 14
    require(deterministic and not has_twice(header) and cbor_encode(proof) == raw, order)
    stream, number, items = u["s"].value, u["n"].value, u["i"].value
    require(printable(stream, 64) and 1 <= number <= MAX_COUNT, "stream_invalid")  # row 15
    require(1 <= items <= 2147483647, bad)  # row 16
    if "k" in u:
        require(len(u["k"].value) <= 512 and len(cbor_encode(u["k"])) <= 12288, bad)
    require(tree_size == size, "tree_size_mismatch")  # row 17
    require(index < tree_size and len(path) == path_length(index, tree_size), broken)  # row 18
    return {
        "tree_size": tree_size, "index": index, "path": [p.value for p in path], "stream": stream, "number": number,
        "digest": u["d"].value, "items": items, "keys": [k.value for k in u["k"].value] if "k" in u else None,
    }


# --- receipt.md §2, §3, §5: leaf, tree, signature ----------------------------


def path_length(index, size):
    n, sn = 0, size - 1
    while sn:
        if index & 1 or index < sn:
            n += 1
        index, sn = index >> 1, sn >> 1
    return n


def leaf_hash(signal, tolerances, r):
    parts = [b"\0telemark-leaf-v1\0", SIGNAL[signal], bytes([tolerances]), bytes([len(r.stream)]), r.stream,
             u64(r.number), u64(r.items)]
    if tolerances & 2:
        parts.append(sha256(b"telemark-keys-v1\0", *[varint(len(k)) + k for k in r.keys]))
    return sha256(*parts, r.digest)


def root_of(leaf, r):
    fn, sn, node = r.index, r.tree_size - 1, leaf
    for p in r.path:
        require(sn > 0, "proof_malformed")
        if fn & 1 or fn == sn:
            node = sha256(b"\x01", p, node)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            node = sha256(b"\x01", node, p)
        fn, sn = fn >> 1, sn >> 1
    require(sn == 0, "proof_malformed")
    return node


def sig_structure(protected, root):
    return b"\x84\x6aSignature1" + cbor_head(2, len(protected)) + protected + b"\x40\x58\x20" + root


class OpenSSL:
    """Signatures by the openssl command, each computation once."""

    def __init__(self):
        self.known = {}
        self.dir = tempfile.mkdtemp(prefix="vectors-")

    def close(self):
        shutil.rmtree(self.dir)

    def verify(self, alg, pem, message, signature):
        key = (alg, pem, message, signature)
        if key not in self.known:
            self.known[key] = self.run(alg, pem, message, signature)
        return self.known[key]

    def run(self, alg, pem, message, signature):
        key, sig = os.path.join(self.dir, "key.pem"), os.path.join(self.dir, "sig.der")
        with open(key, "w", encoding="ascii") as f:
            f.write(pem)
        with open(sig, "wb") as f:
            f.write(signature if alg == -37 else der_signature(signature))
        done = subprocess.run(["openssl", "dgst", *SIGNATURES[alg][2], "-verify", key, "-signature", sig],
                              input=message, capture_output=True, check=False)
        if done.returncode not in (0, 1):
            raise RuntimeError(done.stderr.decode())
        return done.returncode == 0


def der_integer(raw):
    n = raw.lstrip(b"\0")
    if not n or n[0] & 0x80:
        n = b"\0" + n
    return b"\x02" + bytes([len(n)]) + n  # of fewer than 128 bytes


def der_signature(signature):
    half = len(signature) // 2
    body = der_integer(signature[:half]) + der_integer(signature[half:])
    return b"\x30" + bytes([len(body)]) + body


# --- nonce.md ----------------------------------------------------------------


def hkdf(secret, salt, info):
    """RFC 5869 with SHA-256, one block of output."""
    prk = hmac.digest(salt, secret, "sha256")
    return hmac.digest(prk, info + b"\x01", "sha256")


def check_nonce(v, nonce, kid):
    """Returns T in milliseconds."""
    require(32 <= len(nonce) <= 64, "nonce_malformed")
    binding = bytes([len(kid)]) + kid + bytes([len(v.audience)]) + v.audience
    epoch, hint, mac = nonce[6:10], nonce[10:12], nonce[-16:]
    require(hint == sha256(b"telemark-nonce-for-v1\0", binding)[:2], "nonce_foreign")
    key = hkdf(v.secret, epoch, b"telemark-nonce-v1")
    require(mac == hmac.digest(key, binding + nonce[:-16], "sha256")[:16], "nonce_forged")
    require(epoch == v.store_epoch, "nonce_store_lost")
    return int.from_bytes(nonce[:6], "big")


# --- README.md: keys and policies --------------------------------------------

# Algorithm identifiers of a SubjectPublicKeyInfo, and how long it is then.
SPKI = {
    -7: (bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107"), 91),
    -35: (bytes.fromhex("301006072a8648ce3d020106052b81040022"), 120),
    -37: (bytes.fromhex("300d06092a864886f70d0101010500"), 294),  # 2048 bits, exponent 65537
}
ALGORITHMS = {"ES256": -7, "ES384": -35, "ES512": -36, "PS256": -37}


def millis(text):
    """RFC 3339 to Unix milliseconds."""
    t = datetime.fromisoformat(text)
    return round((t - datetime(1970, 1, 1, tzinfo=timezone.utc)).total_seconds() * 1000)


def duration(text):
    """24h, 5m0s, 30s to milliseconds."""
    units = {"h": 3600000, "m": 60000, "s": 1000, "ms": 1}
    parts = re.findall(r"(\d+)(ms|h|m|s)", text)
    if "".join(n + u for n, u in parts) != text:
        raise ValueError(text)
    return sum(int(n) * units[u] for n, u in parts)


def rank(scope):
    """The narrowest scope of a policy first."""
    return ["name", "label", "default"].index(scope.split(":")[0])


def speaks_of(scope, key):
    kind, _, what = scope.partition(":")
    if kind == "name":
        return what.casefold() == key.name.casefold()
    if kind == "label":
        label, _, value = what.partition("=")
        return key.labels.get(label) == value
    return True


class Key:
    def __init__(self, entry, default, policies, regions):
        self.kid = bytes.fromhex(entry["kid"])
        self.name = entry["name"]
        self.alg = ALGORITHMS[entry["alg"]]
        self.pem = entry["public_key"]
        body = "".join(self.pem.strip().splitlines()[1:-1])
        self.spki = base64.b64decode(body)
        self.not_before = millis(entry["not_before"]) if "not_before" in entry else None
        self.not_after = millis(entry["not_after"]) if "not_after" in entry else None
        self.revoked = entry.get("revoked", "")
        self.labels = entry.get("labels", {})
        demands = [entry] + [p for p in sorted(policies, key=lambda p: (rank(p["scope"]), p["scope"])) if speaks_of(p["scope"], self)]
        binding = next((p for p in demands if "bind" in p or "bind_required" in p), default)
        self.bind = binding.get("bind", {})
        self.bind_required = binding.get("bind_required", [])
        self.freshness = next((p["freshness"] for p in demands if "freshness" in p), default["freshness"])
        self.live_within = duration(default["live_within"])
        self.location = next((p["location"] for p in demands if "location" in p), None)
        self.regions = regions
        if "tpm_public" in entry:
            area = base64.b64decode(entry["tpm_public"])
            assert self.kid == b"\x00\x0b" + sha256(area), "kid is not the Name of tpm_public"
            assert area.endswith(self.unique()), "tpm_public is of another key"

    def unique(self):
        """How a TPMT_PUBLIC ends: both coordinates, or the modulus."""
        if self.alg == -37:
            return b"\x01\x00" + self.spki[-261:-5]
        size = SIGNATURES[self.alg][1] // 2
        point = self.spki[-2 * size:]
        return bytes([0, size]) + point[:size] + bytes([0, size]) + point[size:]

    def fits(self):
        identifier, length = SPKI[self.alg]
        return identifier in self.spki and len(self.spki) == length

    def check(self, now, issued):
        require(self.revoked in ("", "superseded"), "key_revoked")
        require(self.not_before is None or now >= self.not_before, "key_expired")
        at = now if issued is None else issued
        require(self.not_after is None or at <= self.not_after, "key_expired")
        require(self.revoked == "" or self.not_after is not None, "key_revoked")

    def judge(self, block, r, freshness, issued):
        for attribute in sorted(self.bind):
            to = self.bind[attribute]
            want = self.name if to == "name" else self.labels.get(to.removeprefix("label:"))
            values = block.values(attribute, r.keys)
            require(all(v == want for v in values), "identity_mismatch")
            require(values or attribute not in self.bind_required, "identity_mismatch")
        order = ["sequence", "stale", "live"]
        require(order.index(freshness) >= order.index(self.freshness), "not_fresh")
        if self.location is not None:
            self.judge_location(r, max(r.iat * 1000, issued or 0))

    def judge_location(self, r, signed):
        p, l = self.location, r.location
        if l is None:
            require(not p.get("required", True), "no_location")
            return
        require(not p.get("sources") or r.source.decode() in p["sources"], "source_not_allowed")
        if "max_age" in p:
            most = duration(p["max_age"])
            require(8 in l or 9 in l, "stale_location")
            require(l.get(9, 0) * 1000 <= most, "stale_location")
            if 8 in l:
                require(-60000 <= signed - l[8] * 1000 <= most, "stale_location")
        if "max_accuracy" in p:
            require(l.get(4, math.inf) <= p["max_accuracy"], "too_inaccurate")
        strict = p.get("mode", "centre") == "strict"
        require(not strict or 4 in l, "too_inaccurate")
        areas = [self.regions[name] for name in p.get("regions", [])]
        if "within" in p:
            areas.append(p["within"])
        if areas:
            areas = [Area(a) for a in areas]
            found = any(a.holds(l[2], l[1], l[4]) if strict else a.inside(l[2], l[1]) for a in areas)
            require(found, "outside")


# Metres of a radian: the least that a way on the ellipsoid can have.
LEAST_RADIUS = 6335439.3


def on_sphere(x, y):
    """The point of the unit sphere at a longitude and latitude."""
    x, y = math.radians(x), math.radians(y)
    return math.cos(y) * math.cos(x), math.cos(y) * math.sin(x), math.sin(y)


def angle(a, b):
    cross = (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
    return math.atan2(math.hypot(*cross), sum(i * k for i, k in zip(a, b)))


def polygons_of(o, crosses=False):
    """Lists of rings; rings that cross the antimeridian go on beyond 180."""
    box = o.get("bbox", [])
    crosses = crosses or len(box) > 0 and box[0] > box[len(box) // 2]
    if o["type"] == "FeatureCollection":
        return [p for f in o["features"] for p in polygons_of(f, crosses)]
    if o["type"] == "Feature":
        return polygons_of(o["geometry"], crosses)
    found = [o["coordinates"]] if o["type"] == "Polygon" else o["coordinates"]
    return [[unrolled(ring) if crosses else [p[:2] for p in ring] for ring in p] for p in found]


def unrolled(ring):
    """Every edge the short way round."""
    out = [ring[0][:2]]
    for x, y in (p[:2] for p in ring[1:]):
        while x - out[-1][0] > 180:
            x -= 360
        while x - out[-1][0] < -180:
            x += 360
        out.append([x, y])
    return out


class Area:
    """Whole circles are judged by walking along every edge in small steps."""

    STEPS = 2000

    def __init__(self, geojson):
        self.polygons = polygons_of(geojson)

    def inside(self, x, y):
        return any(in_polygon(p, x, y) for p in self.polygons)

    def holds(self, x, y, radius):
        """One polygon holds the position, and no boundary of it, or of those behind its cuts, is nearer."""
        if not self.inside(x, y) or radius == 0:
            return self.inside(x, y)
        centre = on_sphere(x, y)
        return any(
            in_polygon(p, x, y) and self.nearest(self.together(p), centre) >= radius / LEAST_RADIUS for p in self.polygons)

    def nearest(self, polygons, centre):
        return min((angle(centre, on_sphere(*at)) for p in polygons for at in walk(p) if not self.seam(at)), default=math.inf)

    def seam(self, at):
        """At a cut both sides are inside; at a pole all around is."""
        x, y = at
        if abs(y) == 90:
            return all(self.inside(lon + 0.5, math.copysign(90 - 1e-6, y)) for lon in range(-180, 180))
        small = 1e-7
        return abs(x) in (180, 540) and self.inside(180 - small, y) and self.inside(small - 180, y)

    def together(self, polygon):
        """The polygon, and those on the other side of its cuts."""
        found, left = [polygon], [p for p in self.polygons if p is not polygon]
        for p in found:
            seams = [at for at in walk(p) if abs(at[0]) in (180, 540) and self.seam(at)]
            behind = [q for q in left if any(in_polygon(q, s, y) for _, y in seams for s in (179.9999999, -179.9999999))]
            found += behind
            left = [q for q in left if not any(q is b for b in behind)]
        return found


def walk(polygon):
    for ring in polygon:
        for (x1, y1), (x2, y2) in zip(ring, ring[1:]):
            for i in range(Area.STEPS + 1):
                t = i / Area.STEPS
                yield x1 + t * (x2 - x1), y1 + t * (y2 - y1)


def in_polygon(polygon, x, y):
    """In whichever turn the rings are drawn."""
    return any(
        in_ring(polygon[0], lon, y) and not any(in_ring(hole, lon, y) for hole in polygon[1:]) for lon in (x, x + 360, x - 360))


def in_ring(ring, x, y):
    """Even-odd rule; no vector has a position on a boundary, but for the north
    pole, which is held to be just south of itself."""
    odd, y = False, min(y, 90 - 1e-9)
    for (x1, y1), (x2, y2) in zip(ring, ring[1:]):
        if (y1 > y) != (y2 > y) and x < (x2 - x1) * (y - y1) / (y2 - y1) + x1:
            odd = not odd
    return odd


# --- receipt.md §10, §11: windows --------------------------------------------

MAX_EPOCHS, MAX_STATEMENTS = 8, 64


class Stream:
    def __init__(self):
        self.done = {}  # number → True, or False when its hole was closed
        self.partial = {}  # number → number of items, set of accepted places
        self.since = {}  # number of a block that has a hole in front → when it came

    def settle(self, number, now):
        if number > max(self.done, default=0) + 1:
            self.since[number] = now
        self.done[number] = True

    def sweep(self, now, keep):
        for above, since in list(self.since.items()):
            if since + keep <= now:
                del self.since[above]
                number = above - 1
                while number > 0 and number not in self.done:
                    self.done[number] = False
                    self.partial.pop(number, None)
                    number -= 1


class Machine:
    """What is remembered of one kid."""

    def __init__(self):
        self.floor = 0
        self.epochs = {}  # epoch → {stream → Stream}
        self.statements = {}  # epoch → {seq → (statement hash, prev)}
        self.fixes = []  # (seconds, point, accuracy) of what was accepted under a limit of speed

    def travel(self, r, key, issued, now):
        """Returns the fix of this block; refused when it cannot be reached from its neighbours in time."""
        limit = (key.location or {}).get("max_speed")
        if not limit or r.location is None:
            return None
        l = r.location
        signed = max(r.iat * 1000, issued or 0) // 1000
        at = min(l.get(8, signed - l.get(9, 0)), now // 1000)
        fix = (at, on_sphere(l[2], l[1]), l.get(4, 0))
        before = max((f for f in self.fixes if f[0] < at), key=lambda f: f[0], default=None)
        after = min((f for f in self.fixes if f[0] > at), key=lambda f: f[0], default=None)
        for f in [before, after] + [f for f in self.fixes if f[0] == at]:
            if f is not None:
                way = angle(f[1], fix[1]) * LEAST_RADIUS - f[2] - fix[2] - 100
                require(way <= limit / 3.6 * (abs(at - f[0]) + 2), "impossible_travel")
        return fix

    def claim(self, r, statement, arrived, now, key, issued):
        """Returns the accepted places, or None for the whole block."""
        require(r.epoch >= self.floor, "epoch_retired")
        known = self.statements.get(r.epoch, {})
        if r.seq in known:
            require(known[r.seq][0] == statement, "equivocation")
        else:
            before, after = known.get(r.seq - 1), known.get(r.seq + 1)
            require(before is None or before[0] == r.prev, "chain_broken")
            require(after is None or after[1] == statement, "chain_broken")
        if r.epoch not in self.epochs:
            if len(self.epochs) >= MAX_EPOCHS:
                lowest = min(self.epochs)
                require(r.epoch > lowest, "epoch_retired")
                self.floor = lowest + 1
                del self.epochs[lowest], self.statements[lowest]
            self.epochs[r.epoch] = {}
        known = self.statements.setdefault(r.epoch, {})
        known[r.seq] = (statement, r.prev)
        for seq in sorted(known)[:-MAX_STATEMENTS]:
            del known[seq]
        stream = self.epochs[r.epoch].setdefault(r.stream, Stream())
        fix = None if r.number in stream.done else self.travel(r, key, issued, now)
        places = self.accept(stream, r, arrived, now)
        if fix is not None:
            self.fixes.append(fix)
        return places

    @staticmethod
    def accept(stream, r, arrived, now):
        if r.number in stream.done:
            raise Refused("duplicate" if stream.done[r.number] else "too_late")
        if arrived.places is None:
            stream.settle(r.number, now)
            return None
        total, done = stream.partial.setdefault(r.number, (arrived.total, set()))
        require(total == arrived.total, "equivocation")
        fresh = []
        for candidates in arrived.places:
            free = [p for p in candidates if p not in done]
            if free:
                done.add(free[0])
                fresh.append(free[0])
        require(fresh, "duplicate")
        if len(done) == arrived.total:
            del stream.partial[r.number]
            stream.settle(r.number, now)
        return sorted(fresh)


# --- receipt.md §9: verification ---------------------------------------------


class Verifier:
    def __init__(self, vector, openssl):
        self.signal = vector["signal"]
        self.audience = vector["audience"].encode()
        self.secret = bytes.fromhex(vector["nonce"]["secret"])
        self.store_epoch = bytes.fromhex(vector["nonce"]["store_epoch"])
        self.max_delay, self.skew = duration(vector["max_delay"]), duration(vector["skew"])
        policies, regions = vector.get("policies", []), vector.get("regions", {})
        keys = [Key(e, vector["policy"], policies, regions) for e in vector["keys"]]
        self.keys = {k.kid: k for k in keys}
        self.machines = collections.defaultdict(Machine)
        self.openssl = openssl

    def sweep(self, now):
        for m in self.machines.values():
            for streams in m.epochs.values():
                for s in streams.values():
                    s.sweep(now, self.max_delay + self.skew)

    def request(self, raw, now):
        blocks = []
        for number, wire, value in read_fields(memoryview(raw)):
            if number == 1 and wire == LEN:
                check_readable(BLOCK[self.signal], value)
                blocks.append(value)
        return [self.block(Block(self.signal, b), now) for b in blocks]

    def block(self, block, now):
        try:
            return self.judge(block, now)
        except Refused as e:
            return {"verdict": str(e)}

    def judge(self, block, now):
        encoded, manifest = block.proof()  # step 1
        require(encoded is not None, "receipt_missing")
        r = decode_receipt(encoded)  # step 2
        require(r.aud == self.audience, "audience_mismatch")  # step 3
        issued = None
        if r.nonce is not None:
            issued = check_nonce(self, r.nonce, r.kid)
            require(now >= issued - self.skew, "nonce_future")
            require(now <= issued + self.max_delay, "nonce_expired")
        key = self.keys.get(r.kid)  # step 4
        require(key is not None, "unknown_key")
        key.check(now, issued)
        require(r.alg == key.alg, "algorithm_mismatch")  # step 5
        require(key.fits(), "curve_mismatch")
        freshness = "sequence"
        if issued is None:
            require(key.freshness == "sequence", "nonce_missing")
        else:
            freshness = "live" if now - issued <= key.live_within else "stale"
        arrived, proof = self.content(block, r, manifest, key)  # steps 6 to 8
        key.judge(block, r, freshness, issued)  # step 9
        places = self.machines[r.kid].claim(r, proof[2], arrived, now, key, issued)  # step 10
        return self.verified(r, key, issued, freshness, arrived, proof, places)

    def content(self, block, r, manifest, key):
        tolerances = (manifest is not None) * 1 | (r.keys is not None) * 2
        try:
            arrived, fault = check_content(block, r, manifest), None
        except Refused as e:
            arrived, fault = None, str(e)
            if fault in FAULTS:  # no signer would have let it through
                raise
        proof = self.signed(r, key, tolerances)
        if proof is not None and fault is None:
            return arrived, proof
        if proof is not None:
            raise Refused(fault)
        if fault is not None and self.signed(r, key, tolerances ^ 1) is not None:
            raise Refused("manifest_mismatch" if tolerances & 1 else "manifest_missing")
        raise Refused("signature_invalid")

    def signed(self, r, key, tolerances):
        """Leaf, root and statement hash when the signature is right, else None."""
        leaf = leaf_hash(self.signal, tolerances, r)
        root = root_of(leaf, r)
        structure = sig_structure(r.protected, root)
        if not self.openssl.verify(r.alg, key.pem, structure, r.signature):
            return None
        return leaf, root, sha256(b"telemark-prev-v1\0", structure)

    @staticmethod
    def verified(r, key, issued, freshness, arrived, proof, places):
        """The answer in the form of the vectors."""
        items = {"signed": arrived.total, "arrived": arrived.items, "accepted": arrived.items}
        if places is not None:
            items["accepted"] = len(places)
            items["places"] = places
        claims = {
            "kid": r.kid.hex(), "name": key.name, "ueid": r.ueid.hex(), "epoch": r.epoch, "seq": r.seq, "size": r.size,
            "prev": r.prev.hex(), "stream": r.stream.decode(), "block": r.number, "iat": r.iat, "freshness": freshness,
        }
        if issued is not None:
            t = datetime.fromtimestamp(issued // 1000, timezone.utc)
            claims["nonce_time"] = t.strftime("%Y-%m-%dT%H:%M:%S") + ".%03dZ" % (issued % 1000)
        if r.location is not None:
            names = {1: "latitude", 2: "longitude", 3: "altitude", 4: "accuracy", 8: "timestamp", 9: "age"}
            claims["location"] = {names[k]: v for k, v in r.location.items()} | {"source": r.source.decode()}
        out = {
            "verdict": "verified", "digest": r.digest.hex(), "leaf": proof[0].hex(), "root": proof[1].hex(),
            "statement": proof[2].hex(), "items": items, "claims": claims,
        }
        if arrived.added:
            out["added"] = [k.decode() for k in arrived.added]
        return out


# --- the vectors -------------------------------------------------------------


def whole_places(got, want):
    """A block that arrives whole and first may be told with or without places."""
    items = got.get("items", {})
    if "places" not in want.get("items", {}) and items.get("places") == list(range(items.get("signed", -1))):
        del items["places"]


def run(path, openssl):
    """Returns what is wrong, or None."""
    with open(path, encoding="utf-8") as f:
        vector = json.load(f)
    verifier = Verifier(vector, openssl)
    for n, step in enumerate(vector["steps"]):
        now = millis(step["now"])
        if step.get("sweep"):
            verifier.sweep(now)
        try:
            got = verifier.request(base64.b64decode(step.get("request", "")), now)
        except NotOTLP as e:
            if not step.get("unreadable"):
                return "step %d: not readable: %s" % (n, e)
            continue
        if step.get("unreadable"):
            return "step %d: readable" % n
        want = step.get("expect", [])
        if len(got) != len(want):
            return "step %d: %d blocks, not %d" % (n, len(got), len(want))
        for i, (g, w) in enumerate(zip(got, want)):
            whole_places(g, w)
            if g != w:
                return "step %d, block %d: got  %s\n%s want %s" % (n, i, json.dumps(g), " " * 20, json.dumps(w))
    return None


def main(paths):
    if shutil.which("openssl") is None:
        sys.exit("verify.py: the openssl command is missing")
    paths = paths or sorted(glob.glob(os.path.join(os.path.dirname(os.path.abspath(__file__)), "*.json")))
    openssl, failed = OpenSSL(), 0
    try:
        for path in paths:
            wrong = run(path, openssl)
            if wrong:
                failed += 1
                print("%s: %s" % (os.path.basename(path), wrong))
    finally:
        openssl.close()
    print("%d passed, %d failed" % (len(paths) - failed, failed))
    return 1 if failed or not paths else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
