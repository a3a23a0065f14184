# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disk images to copy: 30 % holes, 10 % written zeroes, 30 % random octets, 30 % files of this machine, in extents of up to 16 MiB."""

import os
import random

from machine import MIB

HOLE, ZERO, RANDOM, FILES = "hole", "zero", "random", "files"
SHARES = {HOLE: 30, ZERO: 10, RANDOM: 30, FILES: 30}
CHANGE = 65536


def _file_octets():
    """The content of installed programs and libraries, for ever."""
    while True:
        found = False
        for folder in ("/usr/lib", "/usr/bin", "/usr/share"):
            for where, names, files in os.walk(folder):
                names.sort()
                for name in sorted(files):
                    path = f"{where}/{name}"
                    try:
                        if os.path.islink(path) or not os.path.isfile(path) or os.path.getsize(path) < 4096:
                            continue
                        with open(path, "rb") as file:
                            while octets := file.read(MIB):
                                found = True
                                yield octets
                    except OSError:
                        continue
        assert found, "no files to make an image of"


class _Pieces:
    def __init__(self):
        self.source = _file_octets()
        self.rest = b""

    def take(self, size):
        while len(self.rest) < size:
            self.rest += next(self.source)
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken


def make(path, size, seed=1):
    """Writes the image; the same size and seed give the same layout."""
    chance, files, left = random.Random(seed), _Pieces(), {k: size * s // 100 for k, s in SHARES.items()}
    left[FILES] += size - sum(left.values())
    with open(path, "wb") as file:
        file.truncate(size)
        offset = 0
        while offset < size:
            kind = chance.choices(list(left), weights=list(left.values()))[0]
            length = min(left[kind], chance.randint(1, 4096) * 4096)
            left[kind] -= length
            file.seek(offset)
            if kind == ZERO:
                file.write(bytes(length))
            elif kind == RANDOM:
                file.write(chance.randbytes(length))
            elif kind == FILES:
                file.write(files.take(length))
            offset += length


def change(path, percent, original, seed=2):
    """Overwrites so many percent of the 64 KiB blocks with random octets. Returns the octets of those that are not zeroes in the original."""
    chance, blocks = random.Random(seed), os.path.getsize(path) // CHANGE
    chosen = chance.sample(range(blocks), blocks * percent // 100)
    data = 0
    with open(path, "r+b") as file, open(original, "rb") as other:
        for block in chosen:
            file.seek(block * CHANGE)
            file.write(chance.randbytes(CHANGE))
            other.seek(block * CHANGE)
            data += CHANGE if any(other.read(CHANGE)) else 0
    return data
