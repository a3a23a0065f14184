#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""An authorized peer that asks a receiver for what it must not get. Every line of the table is asked for by PREPARE and by CHECK: the
receiver has to refuse with a sentence that holds the words, and to be there afterwards.

requests.py ADDRESS:PORT STATE-DIR ALLOWED-DISK OTHER-DISK SR
requests.py ADDRESS:PORT STATE-DIR                              the receiver opens no SR
"""
import sys

from wire import CHECK, CHECKED, FAILED, PREPARE, Peer

GUEST = {"kind": "none", "name": "m", "uuid": "", "memory": 0, "max_pfn": 0}
DISK = {"vbd": "disk0", "label": "m", "size": 1 << 20, "sector_size": 512, "read_only": False}


def guest(**changed):
    return {**GUEST, "disks": [DISK], **changed}


def disk(**changed):
    return guest(disks=[{**DISK, **changed}])


def disks(count, **changed):
    return guest(disks=[{**DISK, "vbd": f"disk{i}", "label": f"m{i}", **changed} for i in range(count)])


def table(allowed, other, sr):
    many = [{**DISK, "vbd": "a"}, {**DISK, "vbd": "b"}]
    long = "a" * 5000
    return [
        # places
        ("another SR", {"guest": guest(), "sr": "dir:/"}, "--sr dir:/"),
        ("the SR by another spelling", {"guest": guest(), "sr": sr + "/"}, "does not open the SR"),
        ("the SR through its parent", {"guest": guest(), "sr": sr + "/../sr"}, "does not open the SR"),
        ("an SR that is none", {"guest": guest(), "sr": "lvm:../../dev"}, "is no SR"),
        ("an SR with an end", {"guest": guest(), "sr": "lvm:a\n--yes"}, "is no SR"),
        ("an SR of 5000 octets", {"guest": guest(), "sr": "dir:/" + long}, "is no SR"),
        ("a disk that is not allowed", {"guest": guest(), "targets": {"disk0": other}}, "--allow-disk"),
        ("an allowed one by another spelling", {"guest": guest(), "targets": {"disk0": "/" + allowed}}, "--allow-disk"),
        ("an allowed one through a folder", {"guest": guest(), "targets": {"disk0": allowed + "/../other.img"}}, "--allow-disk"),
        ("a path that is relative", {"guest": guest(), "targets": {"disk0": "fixed.img"}}, "absolute path"),
        ("a path that is a number", {"guest": guest(), "targets": {"disk0": 7}}, "absolute path"),
        ("a path of 5000 octets", {"guest": guest(), "targets": {"disk0": "/" + long}}, "absolute path"),
        ("one path for two disks", {"guest": guest(disks=many), "targets": {"a": allowed, "b": allowed}}, "named for two"),
        ("a target for no disk", {"guest": guest(), "targets": {"xvdz": allowed}}, "no such disk"),
        ("a size that differs", {"guest": disk(size=512), "targets": {"disk0": allowed}}, "must be equal"),
        # sizes
        ("2^60 octets", {"guest": disk(size=1 << 60)}, "free"),
        ("2^50 octets of a disk that is to be used again, and is not there", {"guest": disk(size=1 << 50), "reuse": ["disk0"]}, "free"),
        ("2^60 and some", {"guest": disk(size=(1 << 60) + 512)}, "'size' is"),
        ("16 disks of 2^60, whose sum wraps to 0", {"guest": disks(16, size=1 << 60)}, "octets together"),
        ("no octets", {"guest": disk(size=0)}, "multiple of 512"),
        ("half a sector", {"guest": disk(size=256)}, "multiple of 512"),
        ("a negative size", {"guest": disk(size=-512)}, "'size' is"),
        ("a size beyond 64 bits", {"guest": disk(size=1 << 70)}, "is not JSON"),
        ("a size that is a fraction", {"guest": disk(size=512.0)}, "must be a number"),
        ("a size that is a text", {"guest": disk(size="512")}, "must be a number"),
        ("sectors of 513", {"guest": disk(sector_size=513)}, "512 or 4096"),
        ("memory beyond addresses", {"guest": guest(memory=1 << 60)}, "'memory' is"),
        ("PFNs beyond memory", {"guest": guest(max_pfn=1 << 60)}, "'max_pfn' is"),
        ("65 disks", {"guest": disks(65)}, "at most 64"),
        ("10000 values too many", {"guest": guest(config={"a": [0] * 26000})}, "more than 16384 values"),
        # names
        ("a name that is a path", {"guest": guest(name="../m")}, "must not hold"),
        ("a name that is an option", {"guest": guest(name="-m")}, "must not hold"),
        ("a hidden name", {"guest": guest(name=".m")}, "must not hold"),
        ("no name", {"guest": guest(name="")}, "must not hold"),
        ("a name with an end", {"guest": guest(name="m\n")}, "must not hold"),
        ("a name with a zero", {"guest": guest(name="m\0m")}, "is not JSON"),
        ("a name of 5000 octets", {"guest": guest(name=long)}, "octets long"),
        ("a vbd that is a path", {"guest": disk(vbd="../x")}, "must not hold"),
        ("a vbd of 5000 octets", {"guest": disk(vbd=long)}, "octets long"),
        ("one vbd twice", {"guest": guest(disks=[DISK, DISK])}, "there twice"),
        ("a label with a terminal's codes", {"guest": disk(label="\x1b[2J")}, "must not hold"),
        ("a label of 5000 octets", {"guest": disk(label=long)}, "octets long"),
        ("a uuid that is a path", {"guest": guest(uuid="../../x")}, "must not hold"),
        # kinds
        ("no kind of ours", {"guest": guest(kind="vmware")}, "vmware"),
        ("no guest", {}, "object is expected"),
        ("a guest that is a list", {"guest": []}, "object is expected"),
        ("disks that are none", {"guest": guest(disks={})}, "must be a list"),
        ("a disk that is none", {"guest": guest(disks=[7])}, "must be a text"),
        ("a config that is none", {"guest": guest(config=[1])}, "must be an object"),
        ("an SR that is a number", {"guest": guest(), "sr": 7}, "'sr' must be a text"),
        ("targets that are a list", {"guest": guest(), "targets": [allowed]}, "'targets' must be an object"),
        ("a reuse that is a text", {"guest": guest(), "reuse": "disk0"}, "'reuse' must be a list"),
        ("a reuse of no disk", {"guest": guest(), "reuse": ["xvdz", 7]}, "has no disk"),
        # no JSON
        ("a list", b"[]", "not a JSON object"),
        ("nothing", b"", "is not JSON"),
        ("half an object", b'{"guest":', "is not JSON"),
        ("depth", b'{"a":' * 10000, "is not JSON"),
        ("a name twice", b'{"sr":"dir:/","sr":"dir:/"}', "is not JSON"),
        ("no UTF-8", b'{"sr":"\xff"}', "is not JSON"),
    ]


def table_without_sr():
    return [
        ("a disk", {"guest": guest()}, "has no SR"),
        ("16 disks of 2^56", {"guest": disks(16, size=1 << 56)}, "has no SR"),
        ("a disk that is to be used again", {"guest": guest(), "reuse": ["disk0"]}, "has no SR"),
    ]


def answer(where, folder, role, message):
    peer = Peer(where, folder, role)
    peer.send(CHECK if role == "check" else PREPARE, message)
    kind, said = peer.receive()
    peer.close()
    if kind == FAILED:
        return said["text"]
    if kind == CHECKED:
        return " ".join(said["problems"]) or "nothing stands in the way"
    return f"record of type {kind}: {said}"


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    folder = sys.argv[2]
    bad = 0
    for name, message, words in table(*sys.argv[3:]) if len(sys.argv) > 3 else table_without_sr():
        for role in "control", "check":
            try:
                said = answer((host, int(port)), folder, role, message)
            except (OSError, EOFError) as e:
                said = f"no answer: {e!r}"
            if words not in said or not said.isprintable() or len(said) > 600:
                bad += 1
                print(f"{name} ({role}): \"{said[:300]}\", expected \"{words}\"")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
