#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Independent reader of captured migrations: checks that a capture keeps to docs/protocol.md.

    verify-stream.py [--allow-cut] DIR...     folders made by "xmotion send --capture DIR" or at the receiver
    verify-stream.py --self-test              one good capture and one bad one for every rule

A capture holds control.xmc, data-0.xmc, data-1.xmc...: the records of one connection as on the wire, each after one
octet 'S' (sent by the end that captured) or 'R' (received). What was connected anew after the first drop is in
control.1.xmc, data-0.1.xmc..., after the second in control.2.xmc, and so on. Written from the paper alone, it shares nothing with
src/transport/wire.c. It prints a summary and "ok", or the first violation with its place; then it exits with 1.
"""

import argparse
import ctypes
import ctypes.util
import glob
import importlib.util
import json
import os
import re
import struct
import subprocess
import sys

sys.dont_write_bytecode = True
SENDER, RECEIVER = "sender", "receiver"
OTHER = {SENDER: RECEIVER, RECEIVER: SENDER}
CONTROL_MAX = 1 << 20
DATA_MAX = (1 << 20) + (64 << 10)
RAW_MAX = 1 << 20
REACH = 65536  # octets of one chain
PAGE = 4096

# number: name, connections, from, form
TYPES = {
    1: ("HELLO", "both", "both", "json"), 2: ("PREPARE", "control", SENDER, "json"),
    3: ("PREPARED", "control", RECEIVER, "json"), 4: ("MEMORY_BEGIN", "control", SENDER, "json"),
    5: ("MEMORY_READY", "control", RECEIVER, "json"), 6: ("MEMORY_RECORD", "control", SENDER, "binary"),
    7: ("EPOCH_END", "control", SENDER, "binary"), 8: ("FINAL", "control", SENDER, "json"),
    9: ("READY", "control", RECEIVER, "json"), 10: ("GO", "control", SENDER, "json"),
    11: ("RUNNING", "control", RECEIVER, "json"), 12: ("ABORT", "control", SENDER, "json"),
    13: ("ABORTED", "control", RECEIVER, "json"), 14: ("FAILED", "control", RECEIVER, "json"),
    15: ("PING", "control", "both", "empty"), 16: ("PONG", "control", "both", "empty"),
    17: ("CHECK", "control", SENDER, "json"), 18: ("CHECKED", "control", RECEIVER, "json"),
    19: ("EPOCH_BEGIN", "control", SENDER, "binary"), 20: ("SETTLED", "control", RECEIVER, "json"),
    21: ("RESUMED", "control", RECEIVER, "json"), 22: ("ASK", "control", SENDER, "json"),
    23: ("ANSWER", "control", RECEIVER, "json"), 24: ("FORGET", "control", SENDER, "json"),
    32: ("DISK_DATA", "data", SENDER, "binary"),
    33: ("MEMORY_PAGES", "data", SENDER, "binary"), 34: ("ACK", "data", RECEIVER, "binary"),
    35: ("NEED", "data", RECEIVER, "binary"),
}


class Violation(Exception):
    """The capture breaks the paper, at `offset` of the file `path`."""

    def __init__(self, path, offset, text):
        super().__init__(f"{path}: offset {offset}: {text}")


def load_library(name):
    found = ctypes.util.find_library(name)
    try:
        return ctypes.CDLL(found) if found else None
    except OSError:
        return None


def pick_hash():
    """XXH3-64 with seed 0 of some octets, from python3-xxhash or the C library itself."""
    try:
        import xxhash
        return xxhash.xxh3_64_intdigest
    except (ImportError, AttributeError):
        pass
    lib = load_library("xxhash")
    if lib is None or not hasattr(lib, "XXH3_64bits"):
        sys.exit("verify-stream: no XXH3: install the Debian package python3-xxhash or libxxhash0")
    lib.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    lib.XXH3_64bits.restype = ctypes.c_uint64
    return lambda octets: lib.XXH3_64bits(bytes(octets), len(octets))


def pick_zstd():
    """Decodes exactly one zstd frame of at most so many octets, or returns None."""
    lib = load_library("zstd")
    if lib is None:
        return zstd_by_command
    for name in ("ZSTD_decompress", "ZSTD_findFrameCompressedSize"):
        getattr(lib, name).restype = ctypes.c_size_t
    lib.ZSTD_decompress.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
    lib.ZSTD_findFrameCompressedSize.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    lib.ZSTD_isError.argtypes = [ctypes.c_size_t]

    def decode(octets, most):
        if lib.ZSTD_findFrameCompressedSize(octets, len(octets)) != len(octets):
            return None
        out = ctypes.create_string_buffer(most + 1)
        got = lib.ZSTD_decompress(out, most + 1, octets, len(octets))
        return None if lib.ZSTD_isError(got) else out.raw[:got]
    return decode


def zstd_by_command(octets, most):
    try:
        done = subprocess.run(["zstd", "-q", "-d", "-c"], input=octets, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, check=False)
    except FileNotFoundError:
        sys.exit("verify-stream: the capture has zstd payloads: install the Debian package libzstd1 or zstd")
    return done.stdout if done.returncode == 0 and len(done.stdout) <= most else None


xxh3 = pick_hash()
unzstd = pick_zstd()


class Record:
    """One record of a connection: who sent it, where it stands, what it holds."""

    def __init__(self, conn, offset, letter, kind, body):
        self.conn, self.offset, self.letter, self.kind, self.body = conn, offset, letter, kind, body
        self.name, self.on, self.by, self.form = TYPES[kind]
        self.origin = None  # SENDER or RECEIVER

    def bad(self, text):
        return Violation(self.conn.path, self.offset, f"{self.name}: {text}")

    def need(self, holds, text):
        if not holds:
            raise self.bad(text)

    def json(self):
        try:
            value = json.loads(self.body.decode("utf-8"))
        except (UnicodeDecodeError, ValueError) as error:
            raise self.bad(f"the body is not JSON in UTF-8: {error}") from None
        self.need(isinstance(value, dict), "the body is not one JSON object")
        return value

    def member(self, value, name, kind, mandatory=True, where=""):
        """value[name] checked for its type; None when it is optional and missing."""
        if name not in value:
            self.need(not mandatory, f"no member {where}{name}")
            return None
        got = value[name]
        self.need(isinstance(got, kind) and not (kind is int and isinstance(got, bool)),
                  f"member {where}{name} has the wrong type: {got!r:.60}")
        if kind is int:
            self.need(-(1 << 63) <= got < 1 << 63, f"member {where}{name} is out of range: {got}")
        return got


class Connection:
    """Reads one file of a capture, checking what holds for every record."""

    def __init__(self, path, role, allow_cut, drops=0, number=None):
        self.path, self.role, self.allow_cut = path, role, allow_cut
        self.drops, self.number = drops, number  # before it was made; a data connection's own, from its HELLO
        self.sequence = {"S": 0, "R": 0}
        self.letter_of = {}  # 'S' or 'R' -> SENDER or RECEIVER
        self.octets = self.count = 0
        self.cut = False

    def short(self, offset, what):
        if not self.allow_cut:
            raise Violation(self.path, offset, f"the file ends in the middle of {what}")
        self.cut = True

    def raw(self):
        limit = CONTROL_MAX if self.role == "control" else DATA_MAX
        offset = 0
        with open(self.path, "rb") as file:
            while True:
                head = file.read(17)
                if not head:
                    return
                if head[0:1] not in (b"S", b"R"):
                    raise Violation(self.path, offset, f"neither S nor R before a record but {head[0:1]!r}")
                if len(head) < 17:
                    self.short(offset, "a header")
                    return
                magic, kind, length, sequence = struct.unpack(">2sHIQ", head[1:])
                letter = chr(head[0])
                if magic != b"XM":
                    raise Violation(self.path, offset, f"the magic is {magic!r}, not b'XM'")
                if kind not in TYPES:
                    raise Violation(self.path, offset, f"unknown record type {kind}")
                if length > limit:
                    raise Violation(self.path, offset, f"{TYPES[kind][0]}: a body of {length} octets, at most {limit}")
                if sequence != self.sequence[letter]:
                    raise Violation(self.path, offset, f"{TYPES[kind][0]}: sequence number {sequence}, "
                                                       f"expected {self.sequence[letter]}")
                self.sequence[letter] += 1
                body = file.read(length)
                if len(body) < length:
                    self.short(offset, f"a {TYPES[kind][0]}")
                    return
                self.count += 1
                self.octets += 16 + length
                yield Record(self, offset, letter, kind, body)
                offset += 17 + length

    def records(self):
        """Records with their origin known. The one whose HELLO has a role is the sender."""
        greeted = set()
        for record in self.raw():
            if record.letter not in greeted:
                record.need(record.kind == 1, "the first record of a direction is not HELLO")
                greeted.add(record.letter)
                origin = SENDER if "role" in record.json() else RECEIVER
                record.need(origin not in self.letter_of.values(), f"both directions greet as {origin}")
                self.letter_of[record.letter] = origin
            else:
                record.need(record.kind != 1, "a second one")
            record.origin = self.letter_of[record.letter]
            record.need(record.on in ("both", self.role), f"not allowed on a {self.role} connection")
            record.need(record.by in ("both", record.origin), f"not allowed from the {record.origin}")
            record.need(record.form != "empty" or not record.body, "the body is not empty")
            yield record


def check_hello(record):
    value = record.json()
    record.need(record.member(value, "protocol", int) >= 1, "protocol is below 1")
    record.need(all(isinstance(f, str) for f in record.member(value, "features", list)), "features are not strings")
    record.member(value, "program", str)
    if record.origin == SENDER:
        role = record.member(value, "role", str)
        wanted = ("data",)
        if record.conn.role == "control":
            wanted = ("resume",) if record.conn.drops else ("control", "check", "recover")
        record.need(role in wanted, f"role {role!r} on a {record.conn.role} connection")
        session = record.member(value, "session", str)
        record.need(re.fullmatch("[0-9a-f]{32}", session, re.I), f"the session is not 32 hex digits: {session!r}")
        if role == "data":
            record.conn.number = record.member(value, "number", int)
            record.need(0 <= record.conn.number < 64, f"the number is {record.conn.number}, not 0 to 63")
    return value


def sibling(name):
    """A module of this tool in the same folder."""
    spec = importlib.util.spec_from_file_location(
        name, os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def find_connections(folder, drops, allow_cut):
    """The files of the connections that were made after so many drops, control first; [] when there are none."""
    suffix = f".{drops}.xmc" if drops else ".xmc"
    control = os.path.join(folder, "control" + suffix)
    if not os.path.exists(control):
        return []
    found = [Connection(control, "control", allow_cut, drops)]
    numbered = {}
    for path in glob.glob(os.path.join(glob.escape(folder), "data-*" + suffix)):
        match = re.fullmatch(r"data-([0-9]+)" + re.escape(suffix), os.path.basename(path))
        if match:
            numbered[int(match[1])] = path
    if len(numbered) > 64:
        raise Violation(folder, 0, f"{len(numbered)} data connections, at most 64")
    return found + [Connection(numbered[n], "data", allow_cut, drops) for n in sorted(numbered)]


def verify(folder, allow_cut=False):
    """Checks one capture. Returns the lines of its summary; raises Violation."""
    rules = sibling("verify_stream_rules")
    migration = rules.Migration(sys.modules[__name__])
    connections = find_connections(folder, 0, allow_cut)
    if not connections:
        raise Violation(os.path.join(folder, "control.xmc"), 0, "no such file: not a capture")
    everything = []
    while connections:
        everything += connections
        for conn in connections:
            take = migration.control if conn.role == "control" else migration.data
            for record in conn.records():
                if record.kind == 1:
                    migration.hello(record, check_hello(record))
                else:
                    take(record)
        following = find_connections(folder, connections[0].drops + 1, allow_cut)
        migration.end_of(connections, not following)
        connections = following
    return migration.summary(everything)


def main():
    parser = argparse.ArgumentParser(description="Checks captured migrations against docs/protocol.md.")
    parser.add_argument("--allow-cut", action="store_true", help="the last record of a file may be incomplete")
    parser.add_argument("--self-test", action="store_true", help="check this program with captures made here")
    parser.add_argument("folders", nargs="*", metavar="DIR", help="folders with control.xmc and data-N.xmc")
    options = parser.parse_args()
    if options.self_test:
        return sibling("verify_stream_test").run(sys.modules[__name__])
    if not options.folders:
        parser.error("a folder is needed")
    for folder in options.folders:
        try:
            for line in verify(folder, options.allow_cut):
                print(line)
        except Violation as violation:
            print(f"violation: {violation}")
            return 1
        except OSError as error:
            print(f"verify-stream: {error}", file=sys.stderr)
            return 1
        print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
