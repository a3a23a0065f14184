#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A link that misbehaves on command: a TCP proxy between a sender and a receiver, below their TLS.

  proxy.py --to HOST:PORT --control SOCKET [--listen HOST:PORT] [--seed N]
        runs it; prints "listening PORT" and ends with SIGTERM
  proxy.py --control SOCKET COMMAND [ARGUMENT...]
        gives it a command and prints the answer, one line of JSON

Commands ("up" is from the sender to the receiver, "down" the other way; without one both):
  cut                  reset every connection and refuse new ones
  cut-each SECONDS N.. the same each time when N octets in all have gone up; it is back after SECONDS
  back                 take connections again
  stall [up|down]      carry nothing, as a link whose other end has gone: connections stay
  flow                 carry again
  slow RATE [MS]       RATE octets a second each way, each octet MS late; RATE 0: no limit
  corrupt N [up|down]  flip one octet in each of the next N pieces
  half-close up|down   end one direction of every connection (FIN), keep the other
  stats                octets and connections so far
"""

import argparse
import collections
import json
import os
import random
import selectors
import signal
import socket
import struct
import sys
import threading
import time

PIECE = 64 << 10
BUFFER = 256 << 10  # octets on their way in one direction of one connection


class Lane:
    """One direction of one connection."""

    def __init__(self, flow, name, source, sink):
        self.flow, self.name, self.source, self.sink = flow, name, source, sink
        self.queue = collections.deque()  # (due, octets)
        self.size = 0
        self.ended = False  # no more comes from the source
        self.shut = False  # the sink was told so


class Flow:
    """One connection: two sockets, two lanes."""

    def __init__(self, near, far):
        self.near, self.far = near, far
        self.connected = False
        self.lanes = [Lane(self, "up", near, far), Lane(self, "down", far, near)]


class Link:
    """The proxy: start() and stop(), `port`, and the commands as methods. They may be called from any thread."""

    def __init__(self, target, listen=("127.0.0.1", 0), seed=0):
        self.target, self.address = target, listen
        self.random = random.Random(seed)
        self.lock = threading.RLock()
        self.flows = []
        self.listener = None
        self.stalled = set()
        self.rate, self.delay = 0, 0.0
        self.allowance = {"up": (0.0, 0.0), "down": (0.0, 0.0)}  # octets, as of when
        self.corruptions = {"up": 0, "down": 0}
        self.octets = {"up": 0, "down": 0}
        self.accepted = self.cuts = self.corrupted = 0
        self.cuts_to_come = []
        self.back_at = None
        self.back_after = 0.0
        self.stopping = False
        self.wake_r, self.wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._listen()
        self.port = self.listener.getsockname()[1]
        self.address = (listen[0], self.port)
        self.thread = threading.Thread(target=self.run, daemon=True)

    # -- commands --

    def start(self):
        self.thread.start()
        return self

    def stop(self):
        self.stopping = True
        self._wake()
        self.thread.join()

    def cut(self):
        with self.lock:
            self._cut()
        self._wake()

    def cut_each(self, seconds, *octets):
        with self.lock:
            self.cuts_to_come = sorted(octets)
            self.back_after = seconds

    def back(self):
        with self.lock:
            self._listen()
        self._wake()

    def stall(self, lane=None):
        with self.lock:
            self.stalled |= {lane} if lane else {"up", "down"}
        self._wake()

    def flow(self):
        with self.lock:
            self.stalled.clear()
        self._wake()

    def slow(self, rate, delay_ms=0):
        with self.lock:
            self.rate, self.delay = rate, delay_ms / 1000
            self.allowance = {lane: (0.0, time.monotonic()) for lane in ("up", "down")}
        self._wake()

    def corrupt(self, count, lane=None):
        with self.lock:
            for name in [lane] if lane else ["up", "down"]:
                self.corruptions[name] = count

    def half_close(self, name):
        with self.lock:
            for lane in [lane for flow in self.flows for lane in flow.lanes if lane.name == name]:
                lane.ended = True
        self._wake()

    def reset(self):
        """A good link again, without connections."""
        with self.lock:
            self._drop_all()
            self.stalled.clear()
            self.rate, self.delay = 0, 0.0
            self.corruptions = {"up": 0, "down": 0}
            self.cuts_to_come = []
            self.back_at = None
            self._listen()
        self._wake()

    def stats(self):
        with self.lock:
            return {"up": self.octets["up"], "down": self.octets["down"], "connections": len(self.flows),
                    "accepted": self.accepted, "cuts": self.cuts, "corrupted": self.corrupted,
                    "open": self.listener is not None}

    # -- inside --

    def _wake(self):
        try:
            os.write(self.wake_w, b"x")
        except BlockingIOError:
            pass

    def _listen(self):
        if self.listener:
            return
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(self.address)
        s.listen(128)
        s.setblocking(False)
        self.listener = s
        self.back_at = None

    def _drop(self, flow):
        """Reset, so that both ends hear of it at once."""
        for s in (flow.near, flow.far):
            try:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except OSError:
                pass
            s.close()
        if flow in self.flows:
            self.flows.remove(flow)

    def _drop_all(self):
        for flow in list(self.flows):
            self._drop(flow)

    def _cut(self):
        if self.listener:
            self.listener.close()
            self.listener = None
        self._drop_all()
        self.cuts += 1

    def _accept(self):
        try:
            near, _ = self.listener.accept()
        except OSError:
            return
        far = socket.socket()
        for s in (near, far):
            s.setblocking(False)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        far.connect_ex(self.target)
        self.accepted += 1
        self.flows.append(Flow(near, far))

    def _take(self, lane):
        try:
            octets = lane.source.recv(PIECE)
        except BlockingIOError:
            return
        if not octets:
            lane.ended = True
            return
        if self.corruptions[lane.name]:
            self.corruptions[lane.name] -= 1
            self.corrupted += 1
            octets = bytearray(octets)
            octets[self.random.randrange(len(octets))] ^= 1 << self.random.randrange(8)
        lane.queue.append((time.monotonic() + self.delay, memoryview(octets)))
        lane.size += len(octets)

    def _may_send(self, lane, now):
        """How many octets may leave now, and when to look again if none."""
        if lane.name in self.stalled or not lane.queue:
            return 0, None
        if lane.queue[0][0] > now:
            return 0, lane.queue[0][0]
        if not self.rate:
            return PIECE, None
        have, since = self.allowance[lane.name]
        have = min(have + (now - since) * self.rate, max(4096.0, self.rate / 50))
        self.allowance[lane.name] = (have, now)
        return (int(have), None) if have >= 1024 else (0, now + (1024 - have) / self.rate)

    def _give(self, lane, limit):
        due, octets = lane.queue[0]
        try:
            n = lane.sink.send(octets[:limit])
        except BlockingIOError:
            return
        self.octets[lane.name] += n
        lane.size -= n
        if self.rate:
            have, since = self.allowance[lane.name]
            self.allowance[lane.name] = (have - n, since)
        if n == len(octets):
            lane.queue.popleft()
        else:
            lane.queue[0] = (due, octets[n:])
        if self.cuts_to_come and self.octets["up"] >= self.cuts_to_come[0]:
            self.cuts_to_come.pop(0)
            self._cut()
            self.back_at = time.monotonic() + self.back_after

    def _end_lanes(self, flow):
        for lane in flow.lanes:
            if lane.ended and not lane.queue and not lane.shut and lane.name not in self.stalled and flow.connected:
                lane.shut = True
                try:
                    lane.sink.shutdown(socket.SHUT_WR)
                except OSError:
                    pass
        if all(lane.shut for lane in flow.lanes):
            for s in (flow.near, flow.far):
                s.close()
            self.flows.remove(flow)

    def _wanted(self, now):
        """What to wait for: {fd: (events, flow)}, and until when."""
        wanted, until = {}, now + 1.0
        for flow in list(self.flows):
            events = {flow.near: 0, flow.far: 0}
            if not flow.connected:
                events[flow.far] |= selectors.EVENT_WRITE
            for lane in flow.lanes if flow.connected else []:
                if not lane.ended and lane.size < BUFFER and lane.name not in self.stalled:
                    events[lane.source] |= selectors.EVENT_READ
                limit, when = self._may_send(lane, now)
                if limit:
                    events[lane.sink] |= selectors.EVENT_WRITE
                elif when:
                    until = min(until, when)
            wanted.update({s: (mask, flow) for s, mask in events.items() if mask})
        if self.back_at:
            until = min(until, self.back_at)
        return wanted, until

    def _serve(self, s, events, flow):
        if not flow.connected:
            if flow.far.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._drop(flow)
            else:
                flow.connected = True
            return
        for lane in flow.lanes:
            if events & selectors.EVENT_READ and lane.source is s and not lane.ended:
                self._take(lane)
            if events & selectors.EVENT_WRITE and lane.sink is s:
                limit, _ = self._may_send(lane, time.monotonic())
                if limit:
                    self._give(lane, limit)
            if flow not in self.flows:
                return

    def _turn(self):
        with self.lock:
            now = time.monotonic()
            if self.back_at and now >= self.back_at:
                self._listen()
            for flow in list(self.flows):
                self._end_lanes(flow)
            wanted, until = self._wanted(now)
            poll = selectors.PollSelector()
            poll.register(self.wake_r, selectors.EVENT_READ)
            if self.listener:
                poll.register(self.listener, selectors.EVENT_READ)
            for s, (mask, flow) in wanted.items():
                poll.register(s, mask, flow)
            listener = self.listener
        ready = poll.select(max(0.0, until - now))
        with self.lock:
            for key, events in ready:
                if key.fileobj == self.wake_r:
                    os.read(self.wake_r, 4096)
                elif key.data is None:
                    if listener is self.listener:
                        self._accept()
                elif key.data in self.flows and key.fileobj.fileno() >= 0:
                    try:
                        self._serve(key.fileobj, events, key.data)
                    except OSError:
                        self._drop(key.data)  # one side reset it: so does the other

    def run(self):
        while not self.stopping:
            self._turn()
        with self.lock:
            if self.listener:
                self.listener.close()
                self.listener = None
            self._drop_all()


# -- the program --

def obey(link, words):
    """One command of the control socket."""
    name, given = words[0], words[1:]
    numbers = {"cut-each": (float, *[int] * 100), "slow": (int, float), "corrupt": (int, str)}
    commands = {"cut": link.cut, "cut-each": link.cut_each, "back": link.back, "stall": link.stall, "flow": link.flow,
                "slow": link.slow, "corrupt": link.corrupt, "half-close": link.half_close, "reset": link.reset,
                "stats": link.stats}
    if name not in commands:
        return {"error": f"no command {name}"}
    try:
        arguments = [kind(text) for kind, text in zip(numbers.get(name, (str, str)), given)]
        return commands[name](*arguments) or {}
    except (TypeError, ValueError) as e:
        return {"error": f"{' '.join(words)}: {e}"}


def serve_control(link, path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(16)
        while True:
            client, _ = listener.accept()
            with client:
                words = client.recv(4096).decode().split()
                client.sendall(json.dumps(obey(link, words) if words else {}).encode() + b"\n")


def address_of(text):
    host, _, port = text.rpartition(":")
    return host or "127.0.0.1", int(port)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to")
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--control", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("command", nargs="*")
    o = parser.parse_args()
    if o.command:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(o.control)
            s.sendall(" ".join(o.command).encode())
            answer = s.makefile().readline()
        print(answer, end="")
        sys.exit("error" in json.loads(answer))
    if not o.to:
        parser.error("--to or a command is needed")
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    link = Link(address_of(o.to), address_of(o.listen), o.seed).start()
    print(f"listening {link.port}", flush=True)
    serve_control(link, o.control)


if __name__ == "__main__":
    main()
