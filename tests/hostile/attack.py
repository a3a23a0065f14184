#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Attacks a receiver: opens connections of every bad kind, holds them as long as it is let, and opens new ones for those that end.

attack.py ADDRESS:PORT --stranger DIR --peer DIR [--connections N] [--rate N] [--even] [--kinds A,B]

DIR is a state folder (identity.crt, identity.key): the stranger's is not authorized at the receiver, the peer's is. When N connections were
opened it prints "opened", then goes on until SIGTERM or SIGINT and prints one JSON object: how many of each kind were opened, how many
the receiver ended.
"""
import argparse
import collections
import json
import os
import random
import selectors
import signal
import socket
import ssl
import time

from wire import DISK_DATA, HELLO, PREPARE, client_hello, context, hello, record

DRIP_EVERY = 0.2  # seconds
# Of a thousand. TLS costs this process more than it costs the receiver, so those are fewer.
MIX = {
    "silent": 300,
    "garbage": 250,
    "half": 180,  # a whole ClientHello, then nothing
    "drip": 180,  # a ClientHello, one octet at a time
    "long": 30,  # the head of a very long one, octets without end
    "stranger": 12,  # finishes TLS, is not authorized
    "mute": 12,  # authorized, no HELLO
    "hello": 12,  # authorized, HELLO, then nothing
    "records": 6,  # authorized, octets that are no records
    "giant": 6,  # authorized, lengths that no record has
    "bomb": 6,  # authorized, JSON that is deep, or many
    "data": 6,  # authorized, data for a migration that is not there
}
TLS_KINDS = ("stranger", "mute", "hello", "records", "giant", "bomb", "data")


def payload(kind):
    """What an authorized peer says after its handshake."""
    if kind == "hello":
        return hello()
    if kind == "records":
        return os.urandom(4096)
    if kind == "giant":
        return random.choice((record(HELLO, b"{", length=0xFFFFFFFF), record(HELLO, b"{", length=1 << 20),
                              hello() + record(PREPARE, b"{", 1, length=0x7FFFFFFF)))
    if kind == "bomb":
        body = random.choice((b'{"guest":' * 40000, b"[" * 200000, b'{"a":[' + b"{}," * 300000 + b"0]}"))
        return hello() + record(PREPARE, body, 1)
    if kind == "data":
        return hello("data") + record(DISK_DATA, os.urandom(1 << 16), 1)
    return b""


class Attack:
    def __init__(self, options):
        host, port = options.address.rsplit(":", 1)
        self.where = (host, int(port))
        self.options = options
        self.selector = selectors.DefaultSelector()
        self.opened = collections.Counter()
        self.ended = collections.Counter()
        self.refused = 0
        self.drips = {}
        self.hello = client_hello()
        self.contexts = {True: context(options.stranger), False: context(options.peer)}
        kinds = options.kinds.split(",") if options.kinds else list(MIX)
        self.deck = [k for k in kinds for _ in range(MIX[k])]
        random.shuffle(self.deck)
        self.next = 0
        self.over = False

    def kind(self):
        self.next += 1
        return self.deck[self.next % len(self.deck)]

    def open(self, kind):
        try:
            s = socket.create_connection(self.where, timeout=5)
            if kind in TLS_KINDS:
                s = self.contexts[kind == "stranger"].wrap_socket(s)
                s.sendall(payload(kind))
            elif kind == "garbage":
                s.sendall(os.urandom(1400))
            elif kind == "half":
                s.sendall(self.hello)
            elif kind == "drip":
                s.sendall(self.hello[:1])
                self.drips[s] = 1
            elif kind == "long":
                s.sendall(b"\x16\x03\x01\x40\x00\x01" + bytes(2000))
                self.drips[s] = 1
            self.opened[kind] += 1
            s.setblocking(False)
            self.selector.register(s, selectors.EVENT_READ, kind)
        except (OSError, ssl.SSLError):
            self.opened[kind] += 1
            self.ended[kind] += 1
            self.refused += 1

    def end(self, s, kind):
        self.ended[kind] += 1
        self.drips.pop(s, None)
        self.selector.unregister(s)
        s.close()

    def listen(self, seconds):
        """Takes what the receiver says, and notices when it ends a connection."""
        for key, _ in self.selector.select(seconds):
            s, kind = key.fileobj, key.data
            try:
                if not s.recv(65536):
                    self.end(s, kind)
            except (BlockingIOError, ssl.SSLWantReadError):
                pass
            except (OSError, ssl.SSLError):
                self.end(s, kind)

    def drip(self):
        for s, at in list(self.drips.items()):
            try:
                s.send(self.hello[at : at + 1] or b"\0")
                self.drips[s] = at + 1
            except OSError:
                pass  # listen() ends it

    def run(self):
        dripped = time.monotonic()
        begun = time.monotonic()
        told = False
        while not self.over:
            opened = sum(self.opened.values())
            held = opened - sum(self.ended.values())
            allowed = (0 if self.options.even else self.options.connections) + int((time.monotonic() - begun) * self.options.rate)
            if held < self.options.connections and opened < allowed:
                self.open(self.kind())
            elif not told and opened >= self.options.connections:
                print("opened", flush=True)
                begun = begun if self.options.even else time.monotonic()
                told = True
            self.listen(0 if held < self.options.connections and opened < allowed else 0.02)
            if time.monotonic() - dripped > DRIP_EVERY:
                dripped = time.monotonic()
                self.drip()
        print(json.dumps({"opened": sum(self.opened.values()), "ended": sum(self.ended.values()),
                          "held": sum(self.opened.values()) - sum(self.ended.values()), "refused": self.refused,
                          "kinds": {k: [self.opened[k], self.ended[k]] for k in MIX}}), flush=True)

    def stop(self, *_):
        self.over = True


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("address")
    p.add_argument("--stranger", required=True)
    p.add_argument("--peer", required=True)
    p.add_argument("--connections", type=int, default=1000)
    p.add_argument("--rate", type=int, default=50, help="new connections a second after the first N")
    p.add_argument("--even", action="store_true", help="at this rate from the beginning")
    p.add_argument("--kinds", default="")
    attack = Attack(p.parse_args())
    signal.signal(signal.SIGTERM, attack.stop)
    signal.signal(signal.SIGINT, attack.stop)
    attack.run()


if __name__ == "__main__":
    main()
