# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rules of one whole migration, for verify-stream.py: states, disks, chains, epochs, acknowledgements."""

import itertools
import struct

TRIES = 20000  # orders of ambiguous blocks that are tried against the digest

# Control records that another must have come before: name -> that name
AFTER = {
    "PREPARED": "PREPARE", "MEMORY_BEGIN": "PREPARED", "MEMORY_READY": "MEMORY_BEGIN",
    "MEMORY_RECORD": "MEMORY_READY", "EPOCH_BEGIN": "MEMORY_READY", "EPOCH_END": "EPOCH_BEGIN",
    "FINAL": "PREPARED", "READY": "FINAL", "GO": "READY", "RUNNING": "GO", "ABORTED": "ABORT",
    "CHECKED": "CHECK", "SETTLED": "RUNNING", "FORGET": "RUNNING",
}
# What a drop undoes: memory begins anew, and the stop with it.
DROPPED = {"MEMORY_BEGIN", "MEMORY_READY", "MEMORY_RECORD", "EPOCH_BEGIN", "EPOCH_END", "FINAL", "READY"}
ONCE = {"PREPARE", "PREPARED", "MEMORY_BEGIN", "MEMORY_READY", "FINAL", "READY", "GO", "RUNNING", "ABORT",
        "ABORTED", "FAILED", "SETTLED", "FORGET", "RESUMED"}
ENDS = {"RUNNING": "moved", "ABORTED": "aborted", "FAILED": "failed"}
MEMBERS = {  # mandatory members of control messages and their types
    "PREPARE": (("guest", dict),), "FINAL": (("disks", list),), "FAILED": (("errno", int), ("text", str)),
    "RESUMED": (("fresh", bool), ("taken", list)), "ANSWER": (("guest", str),), "ASK": (("guest", dict),),
}
DATA, ZERO, KEEP = 0, 1, 2


class Operation:
    """One block that was sent: what its chain folds, and what is known of when."""

    __slots__ = ("drops", "conn", "number", "turn", "offset", "length", "kind", "checksum", "refused")

    def __init__(self, conn, number, offset, length, kind, checksum):
        self.drops, self.conn, self.number, self.turn = conn.drops, conn.path, number, 0
        self.offset, self.length, self.kind, self.checksum = offset, length, kind, checksum
        self.refused = False


class Lane:
    """What is followed of one data connection."""

    def __init__(self, number):
        self.number = number
        self.sent = self.acked = 0
        self.records = []  # of each record: its operations, none for memory
        self.needs = set() # numbers of records that had a NEED
        self.pending = {}  # (disk, 64 KiB) -> number of the record that is not acknowledged
        self.turns = {}    # disk -> [turn, last offset]: a guess at the pass, for the order of chains


class Migration:
    def __init__(self, tool):
        self.tool = tool
        self.seen, self.role, self.outcome = set(), None, None
        self.hellos, self.session, self.features = {}, None, None
        self.sizes, self.digests, self.max_pfn = [], None, None
        self.chunks = []          # for each disk: number of 64 KiB -> [Operation]
        self.offered = []         # for each disk: whether every 64 KiB has to be offered
        self.lanes, self.before = {}, []  # the data connections by path; those before the last drop, by number
        self.drops = self.fresh = 0
        self.open_epoch, self.epochs = None, []  # the epoch under way; counts of the complete ones
        self.page_records, self.pfns = {}, {}    # epoch -> records; epoch -> set of PFNs
        self.pings = {tool.SENDER: 0, tool.RECEIVER: 0}
        self.blocks = self.zero_blocks = self.offers = self.refusals = self.pages = self.zero_pages = self.ambiguous = 0
        self.notes, self.final_record = [], None
        self.pages_module = tool.sibling("verify_stream_pages")
        self.slots, self.deltas = self.pages_module.Slots(tool), 0  # of the memory script under way; of all of them

    # Greetings

    def hello(self, record, value):
        if record.conn.role == "control":
            if record.conn.drops and record.letter == "S":
                self.hellos = {}
            self.hellos[record.origin] = value
            if record.origin == self.tool.SENDER:
                record.need(self.session in (None, value["session"].lower()), "the session is not the first connection's")
                self.role, self.session = value["role"], value["session"].lower()
            if len(self.hellos) == 2:
                self.features = set.intersection(*(set(h["features"]) for h in self.hellos.values()))
        elif record.origin == self.tool.SENDER:
            record.need(value["session"].lower() == self.session, "the session is not the control connection's")
            record.need(all(lane.number != record.conn.number for lane in self.lanes.values()),
                        f"a second data connection {record.conn.number}")
            self.lanes[record.conn.path] = Lane(record.conn.number)

    # The control connection

    def control(self, record):
        name = record.name
        if name in ("PING", "PONG"):
            self.ping(record)
            return
        # What the sender sent before it knew of the end may still arrive.
        crossing = record.origin == self.tool.SENDER and record.letter == "R"
        if name == "ABORT" and self.outcome == "failed":
            return
        record.need(self.outcome is None or crossing or name in ("SETTLED", "FORGET", "ANSWER"),
                    f"after the end ({self.outcome})")
        record.need(name == "FAILED" or len(self.hellos) == 2, "before both ends have greeted")
        record.need((name in ("CHECK", "CHECKED")) == (self.role == "check") or name == "FAILED",
                    f"not allowed with the role {self.role!r}")
        record.need(name != "RESUMED" or self.role == "resume", f"not allowed with the role {self.role!r}")
        record.need(self.role != "resume" or "RESUMED" in self.seen or name in ("RESUMED", "FAILED", "ABORT", "ABORTED"),
                    "before RESUMED")
        record.need(name != "ANSWER" or self.seen & {"ASK", "FORGET"}, "before ASK or FORGET")
        record.need(name != "ASK" or self.role == "recover", f"not allowed with the role {self.role!r}")
        need = AFTER.get(name)
        record.need(need is None or need in self.seen, f"before {need}")
        record.need(name not in ONCE or name not in self.seen, "a second one")
        if record.origin == self.tool.SENDER:
            record.need("ABORT" not in self.seen, "after ABORT")
            record.need("GO" not in self.seen or name == "FORGET", "after GO")
            record.need(name in ("GO", "ABORT", "FORGET") or "FINAL" not in self.seen, "after FINAL")
        self.seen.add(name)
        if record.form == "json":
            value = record.json()
            for member, kind in MEMBERS.get(name, ()):
                record.member(value, member, kind)
            getattr(self, name.lower(), lambda r, v: None)(record, value)
        else:
            getattr(self, name.lower())(record)
        self.outcome = ENDS.get(name, self.outcome)

    def ping(self, record):
        record.need(record.origin in self.hellos, "before HELLO")
        if record.name == "PING":
            self.pings[record.origin] += 1
        else:
            asker = self.tool.OTHER[record.origin]
            record.need(self.pings[asker] > 0, "without a PING")
            self.pings[asker] -= 1

    def prepare(self, record, value):
        # The disks stand in the guest's description.
        disks = record.member(value["guest"], "disks", list, where="guest.")
        for i, disk in enumerate(disks):
            record.need(isinstance(disk, dict), f"disks[{i}] is not an object")
            size = record.member(disk, "size", int, where=f"disks[{i}].")
            record.need(size > 0 and size % 512 == 0, f"disks[{i}].size is no positive multiple of 512: {size}")
            self.sizes.append(size)
            self.chunks.append({})
            self.offered.append(disk.get("vbd") in (value.get("reuse") or ()))
        max_pfn = record.member(value["guest"], "max_pfn", int, mandatory=False, where="guest.")
        self.max_pfn = max_pfn or None

    def resumed(self, record, value):
        """What was taken of each connection before the drop stays; memory begins anew."""
        taken = value["taken"]
        record.need(all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 1 << 63 for n in taken),
                    "taken holds something else than counts")
        for lane in self.before:
            count = taken[lane.number] if lane.number < len(taken) else 0
            if value["fresh"]:
                continue
            record.need(lane.acked <= count <= lane.sent, f"{count} records of data connection {lane.number} were taken, "
                        f"but {lane.acked} of {lane.sent} were acknowledged")
            # An offer without acknowledgement counts as never made.
            lost = {id(op) for number, ops in enumerate(lane.records) for op in ops
                    if number >= count or op.kind == KEEP and number >= lane.acked}
            for chunks in self.chunks:
                for ops in chunks.values():
                    ops[:] = [op for op in ops if id(op) not in lost]
        if value["fresh"]:
            self.fresh += 1
            self.chunks = [{} for _ in self.sizes]
            self.offered = [True] * len(self.sizes)

    def dropped(self):
        self.drops += 1
        if self.role != "resume" or "RESUMED" in self.seen:
            self.before = list(self.lanes.values())
        self.lanes = {}
        self.seen -= DROPPED | {"RESUMED"}
        self.follow_slots()
        self.slots = self.pages_module.Slots(self.tool)
        self.open_epoch, self.epochs, self.page_records, self.pfns = None, [], {}, {}
        self.digests = self.final_record = None
        self.pings = dict.fromkeys(self.pings, 0)

    def answer(self, record, value):
        record.need(value["guest"] in ("here", "gone"), f"guest is {value['guest']!r}, not 'here' or 'gone'")

    def prepared(self, record, value):
        disks = record.member(value, "disks", list, mandatory=False)
        record.need(disks is None or len(disks) == len(self.sizes),
                    f"{len(disks or ())} disks, PREPARE has {len(self.sizes)}")

    def ready(self, record, value):
        if record.member(value, "disks", list, mandatory=False) is not None:
            for i, digest in enumerate(self.final_digests(record, value)):
                record.need(digest == self.digests[i], f"disk {i}: digest {digest:016x}, FINAL has {self.digests[i]:016x}")

    def final_digests(self, record, value):
        digests = []
        record.need(len(value["disks"]) == len(self.sizes),
                    f"{len(value['disks'])} disks, PREPARE has {len(self.sizes)}")
        for i, disk in enumerate(value["disks"]):
            record.need(isinstance(disk, dict), f"disks[{i}] is not an object")
            text = record.member(disk, "digest", str, where=f"disks[{i}].")
            try:
                record.need(len(text) == 16, f"disks[{i}].digest is not 16 hex digits: {text!r}")
                digests.append(int(text, 16))
            except ValueError:
                raise record.bad(f"disks[{i}].digest is not 16 hex digits: {text!r}") from None
        return digests

    def final(self, record, value):
        record.need(self.open_epoch is None, f"epoch {self.open_epoch} has no EPOCH_END")
        self.digests = self.final_digests(record, value)
        self.final_record = record

    def memory_begin(self, record, value):
        self.slots.ask(record, value)

    def memory_ready(self, record, value):
        self.slots.grant(record, value)

    def memory_record(self, record):
        record.need(self.open_epoch is None, f"between EPOCH_BEGIN and EPOCH_END of epoch {self.open_epoch}")

    def epoch_begin(self, record):
        record.need(len(record.body) == 8, f"{len(record.body)} octets, not 8")
        epoch, = struct.unpack(">Q", record.body)
        record.need(self.open_epoch is None, f"epoch {self.open_epoch} has no EPOCH_END yet")
        record.need(epoch == len(self.epochs), f"epoch {epoch}, expected {len(self.epochs)}")
        self.open_epoch = epoch

    def epoch_end(self, record):
        record.need(len(record.body) == 16, f"{len(record.body)} octets, not 16")
        epoch, count = struct.unpack(">QQ", record.body)
        record.need(epoch == self.open_epoch, f"epoch {epoch}, the open one is {self.open_epoch}")
        self.epochs.append((count, record))
        self.open_epoch = None

    # Data connections

    def data(self, record):
        lane = self.lanes[record.conn.path]
        if record.name in ("ACK", "NEED"):
            (self.ack if record.name == "ACK" else self.need_blocks)(record, lane)
            return
        record.need("PREPARED" in self.seen, "data, but the control connection has no PREPARED")
        lane.sent += 1
        lane.records.append([])
        if record.name == "DISK_DATA":
            self.disk_data(record, lane)
        else:
            self.memory_pages(record)

    def ack(self, record, lane):
        record.need(len(record.body) == 8, f"{len(record.body)} octets, not 8")
        count, = struct.unpack(">Q", record.body)
        record.need(count >= lane.acked, f"{count} records, but {lane.acked} were acknowledged before")
        record.need(count <= lane.sent, f"{count} records, but only {lane.sent} were sent")
        lane.acked = count

    def need_blocks(self, record, lane):
        record.need(len(record.body) == 40, f"{len(record.body)} octets, not 40")
        number, *words = struct.unpack(">5Q", record.body)
        named = {i for i in range(256) if words[i // 64] >> i % 64 & 1}
        record.need(lane.acked <= number < lane.sent, f"of record {number}, but {lane.acked} to {lane.sent - 1} are in flight")
        record.need(number not in lane.needs, f"a second one for record {number}")
        record.need(named, "names no block")
        ops = lane.records[number]
        for i in named:
            record.need(i < len(ops) and ops[i].kind == KEEP, f"block {i} of record {number} was not offered")
            ops[i].refused = True
        lane.needs.add(number)
        self.refusals += len(named)

    def payload(self, record, encoding, raw, start, encoded):
        record.need(encoding in (0, 1), f"unknown encoding {encoding}")
        record.need(raw <= self.tool.RAW_MAX, f"a raw length of {raw}, at most {self.tool.RAW_MAX}")
        record.need(len(record.body) == start + encoded, f"{len(record.body)} octets of body, but head, entries and "
                                                         f"payload make {start + encoded}")
        octets = record.body[start:]
        if encoding == 0:
            record.need(raw == encoded, f"not encoded, but lengths {raw} and {encoded} differ")
            return octets
        record.need("zstd" in (self.features or ()), "zstd, which the ends have not agreed on")
        out = self.tool.unzstd(octets, raw)
        record.need(out is not None and len(out) == raw, f"the payload is not one zstd frame of {raw} octets")
        return out

    def disk_data(self, record, lane):
        body = record.body
        record.need(len(body) >= 16, f"{len(body)} octets, at least 16")
        disk, encoding, count, raw, encoded = struct.unpack_from(">HHIII", body)
        record.need(disk < len(self.sizes), f"disk {disk}, PREPARE has {len(self.sizes)}")
        record.need(1 <= count <= 256, f"{count} blocks, not 1 to 256")
        start = 16 + 24 * count
        record.need(len(body) >= start, f"{len(body)} octets do not hold {count} blocks")
        blocks = [struct.unpack_from(">QIHHQ", body, 16 + 24 * i) for i in range(count)]
        total = 0
        for offset, length, kind, reserved, _ in blocks:
            where = f"block at {offset}"
            record.need(offset % 512 == 0 and length % 512 == 0, f"{where}, length {length}: not multiples of 512")
            record.need(1 <= length <= self.tool.REACH, f"{where}: length {length}, not 1 to {self.tool.REACH}")
            record.need(offset % self.tool.REACH + length <= self.tool.REACH, f"{where} crosses a multiple of 65536")
            record.need(offset + length <= self.sizes[disk], f"{where}: past the end of the disk")
            record.need(kind in (DATA, ZERO, KEEP), f"{where}: unknown kind {kind}")
            whole = offset % self.tool.REACH == 0 and length == min(self.tool.REACH, self.sizes[disk] - offset)
            record.need(kind != KEEP or whole, f"{where}: an offer of a part of its 64 KiB")
            record.need(reserved == 0, f"{where}: the reserved field is {reserved}")
            total += length if kind == 0 else 0
        ranges = sorted((b[0], b[0] + b[1]) for b in blocks)
        record.need(all(a[1] <= b[0] for a, b in zip(ranges, ranges[1:])), "blocks of one record overlap")
        record.need(total == raw, f"a raw length of {raw}, but DATA blocks of {total} octets")
        payload = self.payload(record, encoding, raw, start, encoded)
        at = 0
        for offset, length, kind, _, checksum in blocks:
            wanted = checksum if kind == KEEP else 0
            if kind == DATA:
                wanted = self.tool.xxh3(payload[at:at + length])
                at += length
            record.need(checksum == wanted, f"block at {offset}: checksum {checksum:016x}, computed {wanted:016x}")
            self.operation(record, lane, disk, Operation(record.conn, lane.sent, offset, length, kind, checksum))

    def operation(self, record, lane, disk, op):
        chunk = op.offset // self.tool.REACH
        before = lane.pending.get((disk, chunk), 0)
        record.need(before <= lane.acked or before == op.number,
                    f"block at {op.offset}: its 64 KiB were already in flight with record {before} of this connection")
        lane.pending[disk, chunk] = op.number
        turn = lane.turns.setdefault(disk, [0, 0])
        if op.offset < turn[1]:
            turn[0] += 1
        turn[1] = op.offset
        op.turn = turn[0]
        lane.records[-1].append(op)
        self.chunks[disk].setdefault(chunk, []).append(op)
        self.blocks += 1
        self.zero_blocks += op.kind == ZERO
        self.offers += op.kind == KEEP

    def memory_pages(self, record):
        body = record.body
        record.need("MEMORY_READY" in self.seen, "memory, but the control connection has no MEMORY_READY")
        record.need(len(body) >= 32, f"{len(body)} octets, at least 32")
        epoch, count, encoding, reserved, raw, encoded, checksum = struct.unpack_from(">QIHHIIQ", body)
        record.need(1 <= count <= 256, f"{count} pages, not 1 to 256")
        record.need(reserved == 0, f"the reserved field is {reserved}")
        start = 32 + 8 * count
        record.need(len(body) >= start, f"{len(body)} octets do not hold {count} entries")
        pfns, with_data = self.pfns.setdefault(epoch, set()), []
        for entry in struct.unpack_from(f">{count}Q", body, 32):
            pfn, zero, kind = entry & ((1 << 52) - 1), entry >> 52 & 1, entry >> 60
            record.need(entry >> 55 & 0x1f == 0, f"PFN {pfn:#x}: unused bits are set in {entry:#018x}")
            record.need(pfn not in pfns, f"PFN {pfn:#x} twice in epoch {epoch}")
            record.need(self.max_pfn is None or pfn <= self.max_pfn, f"PFN {pfn:#x}, the largest is {self.max_pfn}")
            pfns.add(pfn)
            self.zero_pages += zero
            has_data = kind < 0xd and not zero
            self.slots.check_entry(record, entry, has_data)
            with_data += [entry] if has_data else []
        record.need(raw == len(with_data) * self.tool.PAGE,
                    f"a raw length of {raw}, but {len(with_data)} pages with data")
        self.slots.take(record, epoch, with_data, self.payload(record, encoding, raw, start, encoded), checksum)
        self.page_records[epoch] = self.page_records.get(epoch, 0) + 1
        self.pages += count

    # What can be said when all was read

    def end_of(self, connections, last):
        """What can be said when all connections that were made together were read; `last`: no others follow."""
        if not last:
            self.need(connections[0], "GO" not in self.seen, "connections were made anew after GO")
            self.need(connections[0], self.outcome is None, f"connections were made anew after the end ({self.outcome})")
            self.need(connections[0], "PREPARED" in self.seen, "connections were made anew before PREPARED")
            self.dropped()
            return
        for conn in connections:
            if not conn.cut and not (conn.allow_cut and len(conn.letter_of) < 2):
                unprepared = conn.role == "data" and "PREPARED" not in self.seen  # its HELLO is answered from then on
                self.need(conn, len(conn.letter_of) == 2 or unprepared or self.role == "resume" and "RESUMED" not in self.seen,
                          "not both ends have greeted")
        moved = "GO" in self.seen
        control = connections[0]
        self.need(control, not moved or self.role not in ("control", "resume") or len(connections) > 1,
                  "a guest moved without a data connection")
        for conn in connections[1:]:
            lane = self.lanes.get(conn.path, Lane(None))
            self.need(conn, "READY" not in self.seen or lane.acked == lane.sent,
                      f"READY, but {lane.sent - lane.acked} of {lane.sent} records were not acknowledged")
        self.check_epochs(control)
        if "READY" in self.seen:
            for disk in range(len(self.sizes)):
                several = self.order(disk)
                self.check_offers(disk)
                self.check_digest(disk, several)

    def order(self, disk):
        """Puts the operations of each 64 KiB into their order, or the likely one where several connections sent to it; the
        numbers of those. An offer is of a first pass over all of the disk."""
        several = []
        for chunk, ops in self.chunks[disk].items():
            sent = [op for op in ops if op.kind != KEEP]
            if len({(op.drops, op.conn) for op in sent}) > len({op.drops for op in sent}):
                ops.sort(key=lambda op: (op.drops, op.kind != KEEP, op.turn, op.conn, op.number))
                several.append(chunk)
            else:
                ops.sort(key=lambda op: (op.drops, op.kind != KEEP, op.number))
        return several

    def check_offers(self, disk):
        """Refused blocks were sent, and where everything has to be offered it was."""
        for chunk in range(-(-self.sizes[disk] // self.tool.REACH)):
            ops = self.chunks[disk].get(chunk, [])
            offers = [op for op in ops if op.kind == KEEP]
            where = f"disk {disk}: the 64 KiB at {chunk * self.tool.REACH}"
            self.final_record.need(offers or not self.offered[disk], f"{where} were never offered")
            if not offers or not offers[-1].refused:
                continue
            after = sorted((op.offset, op.length) for op in ops[ops.index(offers[-1]) + 1:] if op.kind != KEEP)
            end = offers[-1].offset
            for offset, length in after:
                end = max(end, offset + length) if offset <= end else end
            self.final_record.need(end >= offers[-1].offset + offers[-1].length, f"{where} were refused and not sent")

    def need(self, conn, holds, text):
        if not holds:
            raise self.tool.Violation(conn.path, 0, text)

    def check_epochs(self, control):
        for epoch, (count, record) in enumerate(self.epochs):
            got = self.page_records.get(epoch, 0)
            record.need(got == count or self.outcome != "moved" and got <= count,
                        f"epoch {epoch} has {count} records, but {got} were sent")
        extra = [e for e in self.page_records if e >= len(self.epochs)]
        self.need(control, not extra or "FINAL" not in self.seen, f"epoch {min(extra, default=0)} was never ended")
        self.follow_slots()

    def follow_slots(self):
        """Up to the first epoch of which records are missing."""
        complete = 0
        while complete < len(self.epochs) and self.page_records.get(complete, 0) == self.epochs[complete][0]:
            complete += 1
        self.slots.follow(complete)
        self.deltas += self.slots.deltas

    def fold(self, ops):
        chain = 0
        for op in ops:
            if op.refused:
                chain = 0
                continue
            chain = 0 if op.kind == KEEP else chain
            chain = self.tool.xxh3(struct.pack(">QQQQ", chain, op.offset, op.length + (op.kind << 32), op.checksum))
        return chain

    def check_digest(self, disk, several):
        """Chains of 64 KiB that one connection touched have one order. For the others the order between connections is
        not in the capture: the likely one (by pass and offset) is tried, then others; a digest that fits proves it."""
        chains = [0] * -(-self.sizes[disk] // self.tool.REACH)
        for chunk, ops in self.chunks[disk].items():
            chains[chunk] = self.fold(ops)
        wanted = self.digests[disk]
        packed = struct.pack(f">{len(chains)}Q", *chains)
        tries = 0
        for tries, changed in enumerate(self.orders(disk, several)):
            now = bytearray(packed)
            for chunk, chain in changed:
                struct.pack_into(">Q", now, chunk * 8, chain)
            got = self.tool.xxh3(bytes(now))
            if got == wanted:
                return
            if tries >= TRIES:
                break
        if not several:
            raise self.final_record.bad(f"disk {disk}: digest {wanted:016x}, computed {got:016x}")
        self.ambiguous += len(several)
        self.notes.append(f"disk {disk}: the digest is not decided: {len(several)} blocks of 64 KiB came over several "
                          f"connections in an order that the capture does not tell ({tries + 1} orders tried)")

    def orders(self, disk, several):
        """Changes to the likely order: none, one chain, two chains..."""
        yield ()
        options = []
        for chunk in several:
            ops = self.chunks[disk][chunk]
            found = {self.fold(o) for o in itertools.islice(merges(ops), 24)} - {self.fold(ops)}
            options.append([(chunk, chain) for chain in found])
        for many in range(1, len(options) + 1):
            for chosen in itertools.combinations(options, many):
                yield from itertools.product(*chosen)

    def summary(self, connections):
        sizes = ", ".join(str(s) for s in self.sizes)
        end = self.outcome or ("checked" if "CHECKED" in self.seen else "no end")
        yield (f"records {sum(c.count for c in connections)}, octets {sum(c.octets for c in connections)}, "
               f"data connections {len(connections) - 1}, end: {end}")
        yield f"disks {len(self.sizes)} ({sizes}), blocks {self.blocks}, of them zero {self.zero_blocks}"
        if self.offers:
            yield f"offers {self.offers}, of them refused {self.refusals}"
        if self.drops:
            yield f"drops {self.drops}, of them to a receiver that was started anew {self.fresh}"
        yield f"epochs {len(self.epochs)}, pages {self.pages}, of them zero {self.zero_pages}, deltas {self.deltas}"
        yield from (f"note: {note}" for note in self.notes)


def merges(ops):
    """Every merge of the connections' own orders."""
    if not ops:
        yield []
        return
    earliest = min((op.drops, op.kind != KEEP) for op in ops)
    for conn in sorted({op.conn for op in ops if (op.drops, op.kind != KEEP) == earliest}):
        rest = list(ops)
        first = min((op for op in ops if op.conn == conn), key=lambda op: op.number)
        rest.remove(first)
        for tail in merges(rest):
            yield [first] + tail
