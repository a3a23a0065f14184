# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kept pages and deltas of memory, for verify-stream.py. Slots are used in the order of epochs, and the files of a capture are read
one connection after another: so what uses slots waits here until all was read."""

import struct

KEPT, DELTA = 1 << 53, 1 << 54
PFN = (1 << 52) - 1


class Slots:
    """The pages that both ends keep, followed from MEMORY_BEGIN on."""

    def __init__(self, tool):
        self.tool = tool
        self.asked = self.count = 0
        self.waiting = {}  # epoch -> [(record, entries with data, payload, checksum)]
        self.deltas = 0

    def ask(self, record, value):
        self.asked = record.member(value, "kept_pages", int, mandatory=False) or 0
        record.need(self.asked >= 0, f"kept_pages is {self.asked}")

    def grant(self, record, value):
        self.count = record.member(value, "kept_pages", int, mandatory=False) or 0
        record.need(0 <= self.count <= self.asked, f"{self.count} kept pages are granted, {self.asked} were asked for")

    def check_entry(self, record, entry, has_data):
        """What an entry's flags say by themselves."""
        if not entry & (KEPT | DELTA):
            return
        where = f"PFN {entry & PFN:#x}"
        record.need(entry & KEPT, f"{where}: a delta that is not kept")
        record.need(has_data, f"{where}: kept, but without data")
        record.need(self.count > 0, f"{where}: kept, but nothing was granted")

    def take(self, record, epoch, entries, payload, checksum):
        """`entries`: those with data. The checksum is checked now, or when it is known what the deltas stand for."""
        if not any(entry & DELTA for entry in entries):
            self.check_sum(record, payload, checksum)
        if any(entry & KEPT for entry in entries):
            self.waiting.setdefault(epoch, []).append((record, entries, payload, checksum))

    def check_sum(self, record, pages, checksum):
        wanted = self.tool.xxh3(pages)
        record.need(checksum == wanted, f"checksum {checksum:016x}, computed {wanted:016x}")

    def follow(self, complete):
        """Goes through the epochs in their order, as many as are complete."""
        held = {}  # slot -> (PFN, epoch, page)
        for epoch in sorted(self.waiting):
            if epoch >= complete:
                break
            for record, entries, payload, checksum in self.waiting[epoch]:
                pages = b"".join(self.page(record, epoch, entry, payload[i * self.tool.PAGE:(i + 1) * self.tool.PAGE], held)
                                 for i, entry in enumerate(entries))
                self.check_sum(record, pages, checksum)

    def page(self, record, epoch, entry, octets, held):
        """The page that an entry stands for, put where it is kept."""
        if not entry & KEPT:
            return octets
        pfn = entry & PFN
        slot = pfn % self.count
        old, since, page = held.get(slot, (None, -1, b""))
        record.need(since < epoch, f"PFN {pfn:#x}: slot {slot} is used twice in epoch {epoch}")
        if entry & DELTA:
            record.need(old == pfn, f"PFN {pfn:#x}: a delta, but slot {slot} holds {'nothing' if old is None else f'PFN {old:#x}'}")
            words = f"{len(octets) // 8}Q"
            octets = struct.pack(words, *(a ^ b for a, b in zip(struct.unpack(words, octets), struct.unpack(words, page))))
            self.deltas += 1
        held[slot] = (pfn, epoch, octets)
        return octets
