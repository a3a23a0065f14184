# SPDX-License-Identifier: LGPL-2.1-or-later
"""Self-test of verify-stream.py: captures that keep every rule, and one that breaks each."""

import json
import os
import struct
import subprocess
import tempfile

SESSION = "00112233445566778899aabbccddeeff"
NUMBERS = {"HELLO": 1, "PREPARE": 2, "PREPARED": 3, "MEMORY_BEGIN": 4, "MEMORY_READY": 5, "MEMORY_RECORD": 6,
           "EPOCH_END": 7, "FINAL": 8, "READY": 9, "GO": 10, "RUNNING": 11, "ABORT": 12, "ABORTED": 13, "FAILED": 14,
           "PING": 15, "PONG": 16, "CHECK": 17, "CHECKED": 18, "EPOCH_BEGIN": 19, "SETTLED": 20, "RESUMED": 21, "ASK": 22,
           "ANSWER": 23, "FORGET": 24, "DISK_DATA": 32, "MEMORY_PAGES": 33, "ACK": 34, "NEED": 35}
BLOCK = b"xmotion " * 512
REACH = 65536
KEPT, DELTA = 1 << 53, 1 << 54


class Maker:
    """Builds one small migration: two disks, two data connections, two epochs. `change` bends lists of records, each
    [letter, type, body], before sequence numbers are given."""

    def __init__(self, tool):
        self.tool = tool

    def disk(self, disk, blocks, encoding=0, payload=None, **head):
        table, raw = b"", b""
        for offset, kind, content in blocks:
            checksum = 0 if kind == 1 else self.tool.xxh3(content)
            table += struct.pack(">QIHHQ", offset, len(content), kind, 0, checksum)
            raw += content if kind == 0 else b""
        payload = raw if payload is None else payload
        return struct.pack(">HHIII", disk, encoding, head.get("count", len(blocks)), head.get("raw", len(raw)),
                           head.get("encoded", len(payload))) + table + payload

    def pages(self, epoch, entries, data, reserved=0, count=None, whole=None):
        """`whole`: the pages that deltas in the data stand for."""
        return struct.pack(">QIHHIIQ", epoch, len(entries) if count is None else count, 0, reserved, len(data),
                           len(data), self.tool.xxh3(whole or data)) + struct.pack(f">{len(entries)}Q", *entries) + data

    def digest(self, size, ops):
        chains = [0] * -(-size // REACH)
        for offset, kind, content in ops:
            checksum = 0 if kind == 1 else self.tool.xxh3(content)
            i = offset // REACH
            if kind >= 2:
                chains[i] = 0
            if kind == 3:  # an offer that is refused
                continue
            chains[i] = self.tool.xxh3(struct.pack(">QQQQ", chains[i], offset, len(content) + (kind << 32), checksum))
        return f"{self.tool.xxh3(struct.pack(f'>{len(chains)}Q', *chains)):016x}"

    def hello(self, role=None, number=None):
        value = {"protocol": 1, "features": ["zstd"], "program": "xmotion 0.1"}
        if role:
            value.update(role=role, session=SESSION)
        if number is not None:
            value["number"] = number
        return json.dumps(value).encode()

    def greet(self, role, number=None):
        return [["S", "HELLO", self.hello(role, number)], ["R", "HELLO", self.hello()]]

    @staticmethod
    def need(record, *blocks):
        words = [0] * 4
        for i in blocks:
            words[i // 64] |= 1 << i % 64
        return struct.pack(">5Q", record, *words)

    def captures(self):
        js = lambda **v: json.dumps(v).encode()
        sizes = (REACH * 3 + 512, REACH)
        first = [(0, 0, BLOCK), (REACH, 1, BLOCK * 16)]
        again, other = [(0, 0, BLOCK[::-1])], [(4096, 0, BLOCK), (8192, 0, BLOCK * 2)]
        frame = subprocess.run(["zstd", "-q", "-c"], input=BLOCK * 3, stdout=subprocess.PIPE, check=True).stdout
        u64 = lambda *v: struct.pack(f">{len(v)}Q", *v)
        zero, alloc = 1 << 52, 0xe << 60
        files = {
            "control": self.greet("control") + [
                ["S", "PREPARE", js(guest={"name": "demo", "max_pfn": 255, "disks": [{"size": s} for s in sizes]})],
                ["R", "PREPARED", js(disks=[{}, {}])],
                ["S", "MEMORY_BEGIN", js()], ["R", "MEMORY_READY", js()],
                ["S", "MEMORY_RECORD", b"head"], ["S", "EPOCH_BEGIN", u64(0)], ["S", "EPOCH_END", u64(0, 2)],
                ["S", "PING", b""], ["R", "PONG", b""],
                ["S", "EPOCH_BEGIN", u64(1)], ["S", "EPOCH_END", u64(1, 1)], ["S", "MEMORY_RECORD", b"tail"],
                ["S", "FINAL", js(disks=[{"digest": self.digest(sizes[0], first + again)},
                                         {"digest": self.digest(sizes[1], other)}])],
                ["R", "READY", js()], ["S", "GO", js()], ["R", "RUNNING", js()]],
            "data-0": self.greet("data", 0) + [
                ["S", "DISK_DATA", self.disk(0, first)], ["R", "ACK", u64(1)],
                ["S", "DISK_DATA", self.disk(1, other, 1, frame)],
                ["S", "MEMORY_PAGES", self.pages(0, [1, 2 | zero], BLOCK)], ["R", "ACK", u64(3)]],
            "data-1": self.greet("data", 1) + [
                ["S", "MEMORY_PAGES", self.pages(0, [3, 4 | alloc], BLOCK)], ["R", "ACK", u64(1)],
                ["S", "DISK_DATA", self.disk(0, again)],
                ["S", "MEMORY_PAGES", self.pages(1, [1, 3], BLOCK * 2)], ["R", "ACK", u64(3)]],
        }
        return files

    def offered(self):
        """A disk with an old copy: one 64 KiB kept, one refused and sent by the other connection, the odd end kept."""
        js = lambda **v: json.dumps(v).encode()
        u64 = lambda *v: struct.pack(f">{len(v)}Q", *v)
        size, one, two, end = REACH * 2 + 512, BLOCK * 16, BLOCK[::-1] * 16, BLOCK[:512]
        digest = self.digest(size, [(0, 2, one), (REACH, 3, two), (REACH * 2, 2, end), (REACH, 0, two)])
        return {
            "control": self.greet("control") + [
                ["S", "PREPARE", js(guest={"name": "demo", "disks": [{"vbd": "xvda", "size": size}]}, reuse=["xvda"])],
                ["R", "PREPARED", js()], ["S", "FINAL", js(disks=[{"digest": digest}])], ["R", "READY", js()],
                ["S", "GO", js()], ["R", "RUNNING", js()], ["S", "FORGET", js()], ["R", "ANSWER", js(guest="here")]],
            "data-0": self.greet("data", 0) + [["S", "DISK_DATA", self.disk(0, [(REACH, 0, two)])], ["R", "ACK", u64(1)]],
            "data-1": self.greet("data", 1) + [
                ["S", "DISK_DATA", self.disk(0, [(0, 2, one), (REACH, 2, two)])],
                ["S", "DISK_DATA", self.disk(0, [(REACH * 2, 2, end)])],
                ["R", "NEED", self.need(0, 1)], ["R", "ACK", u64(2)]],
        }

    def kept(self):
        """Four slots. Pages 1 and 2 are kept, 1 goes as a delta by the other connection, 5 takes its slot and goes as a delta too."""
        js = lambda **v: json.dumps(v).encode()
        u64 = lambda *v: struct.pack(f">{len(v)}Q", *v)
        new = BLOCK[:-1] + b"!"
        difference = bytes(a ^ b for a, b in zip(BLOCK, new))
        delta = KEPT | DELTA
        script = [["S", "EPOCH_BEGIN" if i % 2 == 0 else "EPOCH_END", u64(i // 2, *([1] if i % 2 else []))] for i in range(8)]
        return {
            "control": self.greet("control") + [
                ["S", "PREPARE", js(guest={"name": "demo", "max_pfn": 255, "disks": []})], ["R", "PREPARED", js()],
                ["S", "MEMORY_BEGIN", js(kept_pages=16)], ["R", "MEMORY_READY", js(kept_pages=4)]] + script + [
                ["S", "FINAL", js(disks=[])], ["R", "READY", js()], ["S", "GO", js()], ["R", "RUNNING", js()]],
            "data-0": self.greet("data", 0) + [
                ["S", "MEMORY_PAGES", self.pages(0, [1 | KEPT, 2 | KEPT, 9], BLOCK * 3)],
                ["S", "MEMORY_PAGES", self.pages(2, [5 | KEPT], BLOCK)], ["R", "ACK", u64(2)]],
            "data-1": self.greet("data", 1) + [
                ["S", "MEMORY_PAGES", self.pages(1, [1 | delta, 9], difference + BLOCK, whole=new + BLOCK)],
                ["S", "MEMORY_PAGES", self.pages(3, [5 | delta, 2 | delta], difference * 2, whole=new * 2)], ["R", "ACK", u64(2)]],
        }

    def resumed(self, fresh=False):
        """Two drops. Before the first: record 0 acknowledged, 1 and an offer taken unheard, 3 lost. The second comes before a
        data connection was made. Memory that was begun begins anew."""
        js = lambda **v: json.dumps(v).encode()
        u64 = lambda *v: struct.pack(f">{len(v)}Q", *v)
        size, chunk = REACH * 4, BLOCK * 16
        at = lambda i, kind=0: (REACH * i, kind, chunk)
        before = [] if fresh else [at(0), at(1)]
        again = [at(i, 2) for i in range(4)] if fresh else [at(2, 2), at(3)]
        resumed = ["R", "RESUMED", js(fresh=fresh, taken=[3] + [0] * 63)]
        memory = [["S", "MEMORY_BEGIN", js()], ["R", "MEMORY_READY", js()], ["S", "EPOCH_BEGIN", u64(0)]]
        return {
            "control": self.greet("control") + [
                ["S", "PREPARE", js(guest={"name": "demo", "max_pfn": 255, "disks": [{"vbd": "xvda", "size": size}]})],
                ["R", "PREPARED", js()]] + memory,
            "data-0": self.greet("data", 0) + [
                ["S", "DISK_DATA", self.disk(0, [at(0)])], ["R", "ACK", u64(1)], ["S", "DISK_DATA", self.disk(0, [at(1)])],
                ["S", "DISK_DATA", self.disk(0, [at(2, 2)])], ["S", "DISK_DATA", self.disk(0, [at(3)])]],
            "control.1": self.greet("resume") + [resumed],
            "control.2": self.greet("resume") + [resumed] + memory + [
                ["S", "EPOCH_END", u64(0, 1)], ["S", "FINAL", js(disks=[{"digest": self.digest(size, before + again)}])],
                ["R", "READY", js()], ["S", "GO", js()], ["R", "RUNNING", js()]],
            "data-0.2": self.greet("data", 0) + [
                ["S", "DISK_DATA", self.disk(0, again)], ["S", "MEMORY_PAGES", self.pages(0, [1], BLOCK)], ["R", "ACK", u64(2)]],
        }

    def write(self, folder, files, bend=None):
        for name, records in files.items():
            sequence, out = {"S": 0, "R": 0}, b""
            for letter, kind, body in records:
                number = NUMBERS.get(kind, kind)
                out += letter.encode() + struct.pack(">2sHIQ", b"XM", number, len(body), sequence[letter]) + body
                sequence[letter] += 1
            out = bend[1](out) if bend and bend[0] == name else out
            with open(os.path.join(folder, name + ".xmc"), "wb") as file:
                file.write(out)


def put(where, at, body):
    """A change: the body of record `at` of connection `where` is replaced, by octets or by what a function returns."""
    def change(files):
        record = files[where][at]
        record[2] = body(record[2]) if callable(body) else body
    return change


def insert(where, at, *records):
    return lambda files: files[where].__setitem__(slice(at, at), [list(r) for r in records])


def drop(where, *places):
    def change(files):
        for at in sorted(places, reverse=True):
            del files[where][at]
    return change


def both(*changes):
    def change(files):
        for one in changes:
            one(files)
    return change


def poke(at, form, value):
    """Changes a field inside a body."""
    def change(body):
        out = bytearray(body)
        struct.pack_into(form, out, at, value)
        return bytes(out)
    return change


def member(**changes):
    def change(body):
        value = json.loads(body)
        for name, new in changes.items():
            value.pop(name, None)
            if new is not None:
                value[name] = new
        return json.dumps(value).encode()
    return change


def cases(m):
    """What is broken -> (change of records, part of the message)."""
    disk = m.disk
    big, u64 = bytes((1 << 20) + 1), lambda *v: struct.pack(f">{len(v)}Q", *v)
    failed = b'{"errno":5,"text":"x"}'
    zeros = lambda n: [(i * 512, 1, bytes(512)) for i in range(n)]
    return {
        "unknown type": (insert("control", 2, ("S", 99, b"")), "unknown record type"),
        "control limit": (insert("control", 6, ("S", "MEMORY_RECORD", big)), "at most 1048576"),
        "data limit": (insert("data-0", 2, ("S", "DISK_DATA", bytes((1 << 20) + 65537))), "at most 1114112"),
        "no greeting": (drop("control", 0), "is not HELLO"),
        "greets twice": (insert("control", 2, ("S", "HELLO", m.hello("control"))), "a second one"),
        "two senders": (put("control", 1, m.hello("control")), "both directions greet"),
        "one end only": (drop("data-1", *range(1, 7)), "not both ends"),
        "protocol 0": (put("control", 0, member(protocol=0)), "below 1"),
        "no program": (put("control", 1, member(program=None)), "no member program"),
        "role": (put("data-0", 0, member(role="control")), "role 'control'"),
        "session form": (put("control", 0, member(session="12")), "32 hex digits"),
        "session differs": (put("data-1", 0, member(session="f" * 32)), "not the control connection's"),
        "data on control": (insert("control", 6, ("S", "DISK_DATA", disk(0, zeros(1)))), "on a control connection"),
        "wrong origin": (insert("control", 6, ("R", "MEMORY_RECORD", b"")), "not allowed from the receiver"),
        "not empty": (put("control", 9, b"x"), "not empty"),
        "PONG alone": (drop("control", 9), "without a PING"),
        "not JSON": (put("control", 2, b"{"), "not JSON"),
        "no object": (put("control", 15, b"[]"), "not one JSON object"),
        "member missing": (put("control", 2, member(guest={})), "no member guest.disks"),
        "member type": (put("control", 2, member(guest="demo")), "wrong type"),
        "member range": (put("control", 2, member(guest={"disks": [{"size": 1 << 63}, {"size": 1}]})), "out of range"),
        "disk size": (put("control", 2, member(guest={"disks": [{"size": 1000}, {"size": 512}]})), "multiple of 512"),
        "disk count": (put("control", 3, member(disks=[{}])), "PREPARE has 2"),
        "PREPARED first": (drop("control", 2), "before PREPARE"),
        "RUNNING first": (drop("control", 16), "before GO"),
        "GO first": (drop("control", 15), "before READY"),
        "PREPARE twice": (insert("control", 3, ("S", "PREPARE", b'{"guest":{}}')), "a second one"),
        "memory unready": (drop("control", 5), "before MEMORY_READY"),
        "after GO": (insert("control", 17, ("S", "ABORT", b"{}")), "after GO"),
        "after ABORT": (insert("control", 6, ("S", "ABORT", b"{}")), "after ABORT"),
        "after FINAL": (insert("control", 15, ("S", "MEMORY_RECORD", b"")), "after FINAL"),
        "after the end": (insert("control", 18, ("R", "FAILED", failed)), "after the end"),
        "check role": (insert("control", 3, ("S", "CHECK", b"{}")), "with the role"),
        "data too early": (drop("control", *range(2, 18)), "no PREPARED"),
        "record in epoch": (insert("control", 8, ("S", "MEMORY_RECORD", b"")), "between EPOCH_BEGIN"),
        "epoch number": (put("control", 11, u64(2)), "expected 1"),
        "epoch overlap": (insert("control", 8, ("S", "EPOCH_BEGIN", u64(1))), "no EPOCH_END yet"),
        "epoch end": (put("control", 8, u64(1, 2)), "the open one is 0"),
        "epoch count": (put("control", 8, u64(0, 3)), "but 2 were sent"),
        "epoch open": (drop("control", 12, 13), "no EPOCH_END"),
        "epoch never begun": (drop("control", 11, 12), "never ended"),
        "READY's digest": (put("control", 15, member(disks=[{"digest": "1" * 16}] * 2)), "FINAL has"),
        "ABORT after FAILED": (both(drop("control", 16, 17), insert("control", 16, ("R", "FAILED", failed),
                                                                    ("S", "ABORT", b"{}"))), None),
        "digest form": (put("control", 14, member(disks=[{"digest": "xyz"}, {"digest": ""}])), "16 hex digits"),
        "digest": (put("control", 14, lambda b: b.replace(json.loads(b)["disks"][1]["digest"].encode(), b"0" * 16)),
                   "disk 1: digest"),
        "disk index": (put("data-0", 2, poke(0, ">H", 2)), "disk 2"),
        "no blocks": (put("data-0", 2, poke(4, ">I", 0)), "0 blocks"),
        "many blocks": (put("data-0", 2, disk(0, zeros(257))), "257 blocks"),
        "short table": (put("data-0", 2, poke(4, ">I", 256)), "do not hold"),
        "alignment": (put("data-0", 2, poke(16, ">Q", 100)), "multiples of 512"),
        "length 0": (put("data-0", 2, poke(24, ">I", 0)), "length 0"),
        "crossing": (put("data-0", 2, disk(0, [(REACH - 512, 1, bytes(1024))])), "crosses"),
        "past the end": (put("data-0", 2, disk(0, [(REACH * 3 + 512, 1, bytes(512))])), "past the end"),
        "block kind": (put("data-0", 2, poke(28, ">H", 3)), "unknown kind 3"),
        "data number": (put("data-0", 0, member(number=None)), "no member number"),
        "data number twice": (put("data-1", 0, member(number=0)), "a second data connection 0"),
        "data number range": (put("data-1", 0, member(number=64)), "not 0 to 63"),
        "RESUMED unasked": (insert("control", 4, ("R", "RESUMED", b'{"fresh":false,"taken":[]}')), "with the role"),
        "block reserved": (put("data-0", 2, poke(30, ">H", 1)), "reserved field"),
        "overlap": (put("data-0", 2, disk(0, [(0, 1, bytes(1024)), (512, 1, bytes(512))])), "overlap"),
        "raw sum": (put("data-0", 2, poke(8, ">I", 512)), "DATA blocks of"),
        "raw too large": (both(put("control", 2, member(guest={"disks": [{"size": 1 << 21}, {"size": REACH}]})),
                               put("data-0", 2, disk(0, [(i * REACH, 0, bytes(REACH if i < 16 else 512))
                                                         for i in range(17)]))), "at most 1048576"),
        "encoded length": (put("data-0", 2, poke(12, ">I", 5)), "make"),
        "plain lengths": (put("data-0", 2, disk(0, [(0, 0, BLOCK)], 0, b"x")), "differ"),
        "encoding": (put("data-0", 2, poke(2, ">H", 2)), "unknown encoding"),
        "zstd unagreed": (put("control", 1, member(features=[])), "have not agreed"),
        "zstd damaged": (put("data-0", 4, poke(16 + 48 + 6, ">I", 1)), "zstd frame"),
        "zstd two frames": (put("data-0", 4, lambda b: poke(12, ">I", len(b) * 2 - 128)(b + b[64:])), "one zstd frame"),
        "checksum": (put("data-0", 2, poke(32, ">Q", 1)), "checksum"),
        "zero checksum": (put("data-0", 2, poke(56, ">Q", 1)), "checksum"),
        "one ACK for all": (drop("data-0", 3), None),
        "order unknown": (put("control", 14, lambda b: b.replace(json.loads(b)["disks"][0]["digest"].encode(), b"0" * 16)),
                          None),
        "in flight twice": (insert("data-0", 3, ("S", "DISK_DATA", disk(0, zeros(1)))), "already in flight"),
        "ACK size": (put("data-0", 3, b"1234"), "not 8"),
        "ACK back": (insert("data-0", 6, ("R", "ACK", u64(3)), ("R", "ACK", u64(2))), "acknowledged before"),
        "ACK ahead": (put("data-0", 3, u64(2)), "only 1 were sent"),
        "READY unacked": (drop("data-1", 6), "not acknowledged"),
        "PFN twice": (put("data-1", 2, m.pages(0, [1, 3], BLOCK * 2)), "twice in epoch 0"),
        "PFN too large": (put("data-1", 2, m.pages(0, [256], BLOCK)), "the largest is 255"),
        "PFN bits": (put("data-1", 2, m.pages(0, [3 | 1 << 55], BLOCK)), "unused bits"),
        "kept, not granted": (put("data-1", 2, m.pages(0, [3 | KEPT], BLOCK)), "nothing was granted"),
        "page count 0": (put("data-1", 2, m.pages(0, [3], BLOCK, count=0)), "0 pages"),
        "page entries": (put("data-1", 2, poke(8, ">I", 256)(m.pages(0, [3], b""))), "do not hold"),
        "page reserved": (put("data-1", 2, m.pages(0, [3], BLOCK, reserved=1)), "reserved field"),
        "page data": (put("data-1", 2, m.pages(0, [3, 4], BLOCK)), "2 pages with data"),
        "page checksum": (put("data-1", 2, lambda b: b[:-1] + b"!"), "checksum"),
    }


def offered_cases(m):
    """Of Maker.offered."""
    u64 = lambda *v: struct.pack(f">{len(v)}Q", *v)
    return {
        "offers": (lambda files: None, None),
        "NEED in time": (drop("data-1", 4), "computed"),
        "NEED size": (put("data-1", 4, m.need(0, 1)[:-1]), "not 40"),
        "NEED of nothing": (put("data-1", 4, m.need(0)), "names no block"),
        "NEED past the blocks": (put("data-1", 4, m.need(0, 2)), "block 2 of record 0 was not offered"),
        "NEED of data": (insert("data-0", 3, ("R", "NEED", m.need(0, 0))), "was not offered"),
        "NEED unsent": (put("data-1", 4, m.need(2, 0)), "0 to 1 are in flight"),
        "NEED too late": (both(drop("data-1", 4), insert("data-1", 5, ("R", "NEED", m.need(0, 1)))), "are in flight"),
        "NEED twice": (insert("data-1", 5, ("R", "NEED", m.need(0, 0))), "a second one"),
        "part offered": (put("data-1", 3, m.disk(0, [(REACH * 2 - 512, 2, BLOCK[:512])])), "a part of its 64 KiB"),
        "offer with payload": (put("data-1", 3, m.disk(0, [(REACH * 2, 2, BLOCK[:512])], 0, b"x" * 512)), "DISK_DATA: "),
        "refused, not sent": (drop("data-0", 2, 3), "refused and not sent"),
        "refused, half sent": (put("data-0", 2, m.disk(0, [(REACH, 0, BLOCK)])), "refused and not sent"),
        "never offered": (both(drop("data-1", 3), put("data-1", 4, u64(1))), "never offered"),
        "FORGET first": (insert("control", 4, ("S", "FORGET", b"{}")), "before RUNNING"),
        "ANSWER first": (insert("control", 4, ("R", "ANSWER", b'{"guest":"here"}')), "before ASK or FORGET"),
        "ANSWER of what": (put("control", 9, b'{"guest":"there"}'), "not 'here' or 'gone'"),
        "ASK of whom": (insert("control", 4, ("S", "ASK", b'{"guest":{}}')), "with the role 'control'"),
    }


def kept_cases(m):
    """Of Maker.kept."""
    delta = KEPT | DELTA
    return {
        "kept": (lambda files: None, None),
        "kept of zero": (put("data-0", 2, m.pages(0, [1 | KEPT | 1 << 52], b"")), "without data"),
        "kept without data": (put("data-0", 2, m.pages(0, [1 | KEPT | 0xe << 60], b"")), "without data"),
        "delta not kept": (put("data-1", 2, m.pages(1, [1 | DELTA], BLOCK)), "not kept"),
        "more granted": (put("control", 5, member(kept_pages=17)), "17 kept pages are granted, 16 were asked for"),
        "not asked": (put("control", 4, member(kept_pages=None)), "0 were asked for"),
        "asked wrongly": (put("control", 4, member(kept_pages="16")), "wrong type"),
        "asked for less than nothing": (put("control", 4, member(kept_pages=-1)), "kept_pages is -1"),
        "not granted": (put("control", 5, member(kept_pages=None)), "nothing was granted"),
        "slot used twice": (put("data-0", 2, m.pages(0, [1 | KEPT, 2 | KEPT, 9 | KEPT], BLOCK * 3)), "used twice in epoch 0"),
        "slot of another": (put("data-0", 3, m.pages(2, [9 | KEPT], BLOCK)), "holds PFN 0x9"),
        "slot is empty": (put("data-0", 2, m.pages(0, [1 | KEPT, 2, 9], BLOCK * 3)), "holds nothing"),
        "slots are more": (put("control", 5, member(kept_pages=8)), None),
        "delta of what changed": (put("data-0", 2, m.pages(0, [1 | KEPT, 2 | KEPT, 9], BLOCK[::-1] * 3)), "computed"),
        "checksum of the delta": (put("data-1", 2, lambda b: m.pages(1, [1 | delta, 9], b[-8192:])), "computed"),
        "one slot for all": (put("control", 5, member(kept_pages=1)), "used twice"),
    }


def resumed_cases(_):
    """Of Maker.resumed."""
    taken = lambda n: put("control.1", 2, member(taken=[n]))
    return {
        "resumed": (lambda files: None, None),
        "taken less than acknowledged": (taken(0), "0 records of data connection 0 were taken, but 1 of 4"),
        "taken more than sent": (taken(5), "5 records of data connection 0 were taken"),
        "taken, and one less is told": (taken(1), "computed"),
        "nothing taken is told": (put("control.1", 2, member(taken=[])), "0 records of data connection 0"),
        "taken is no count": (put("control.1", 2, member(taken=["3"])), "something else than counts"),
        "fresh is missing": (put("control.1", 2, member(fresh=None)), "no member fresh"),
        "another session": (put("control.2", 0, member(session="f" * 32)), "the first connection's"),
        "role after a drop": (put("control.1", 0, member(role="control")), "role 'control'"),
        "before RESUMED": (drop("control.2", 2), "before RESUMED"),
        "RESUMED twice": (insert("control.2", 3, ("R", "RESUMED", b'{"fresh":false,"taken":[]}')), "a second one"),
        "resumed after GO": (both(drop("control", 6), insert("control", 6, ("S", "FINAL", b'{"disks":[{"digest":"0000000000000000"}]}'),
                                                             ("R", "READY", b"{}"), ("S", "GO", b"{}"))), "anew after GO"),
        "memory goes on": (drop("control.2", 3, 4), "before MEMORY_READY"),
        "taken is sent again": (put("data-0.2", 2, lambda b: b.replace(struct.pack(">Q", REACH * 3), bytes(8), 1)), "computed"),
    }


def fresh_cases(m):
    """Of Maker.resumed, the receiver being started anew."""
    return {
        "fresh": (lambda files: None, None),
        "fresh, not all offered": (put("data-0.2", 2, m.disk(0, [(REACH * i, 2, BLOCK * 16) for i in range(3)])), "never offered"),
        "fresh is not told": (both(put("control.1", 2, member(fresh=False)), put("control.2", 2, member(fresh=False)),
                                   put("data-0.2", 2, m.disk(0, [(REACH, 0, BLOCK)]))), "computed"),
    }


def raw_cases():
    """What is broken in the octets of data-0 themselves."""
    second = 1 + 16
    return {
        "magic": (lambda o: o[:1] + b"YM" + o[3:], "the magic"),
        "sequence": (lambda o: o[:second - 1] + b"\x07" + o[second:], "sequence number"),
        "letter": (lambda o: b"X" + o[1:], "neither S nor R"),
        "cut header": (lambda o: o + b"S", "middle of a header"),
        "cut body": (lambda o: o[:-3], "in the middle of a ACK"),
    }


def run(tool):
    maker = Maker(tool)
    failures, total = [], 0

    def expect(name, change, bend, part, allow_cut=False, make=maker.captures):
        nonlocal total
        total += 1
        with tempfile.TemporaryDirectory() as folder:
            files = make()
            if change:
                change(files)
            maker.write(folder, files, bend)
            try:
                list(tool.verify(folder, allow_cut))
                got = None
            except tool.Violation as violation:
                got = str(violation)
        if (part is None) != (got is None) or (part and part not in got):
            failures.append(f"{name}: expected {part or 'no violation'!r}, got {got!r}")

    expect("good", None, None, None)
    expect("cut but allowed", None, ("control", lambda o: o[:-1]), None, True)
    swap = lambda files: files.update({"data-0": files["data-1"], "data-1": files["data-0"]})
    expect("the other order", swap, None, None)
    for name, (change, part) in cases(maker).items():
        expect(name, change, None, part)
    for more, make in ((offered_cases, maker.offered), (kept_cases, maker.kept), (resumed_cases, maker.resumed),
                       (fresh_cases, lambda: maker.resumed(True))):
        for name, (change, part) in more(maker).items():
            expect(name, change, None, part, make=make)
    for name, (bend, part) in raw_cases().items():
        expect(name, None, ("data-0", bend), part)
    for failure in failures:
        print(f"self-test: {failure}")
    print(f"self-test: {total - len(failures)} passed, {len(failures)} failed, 0 skipped")
    return 1 if failures else 0
