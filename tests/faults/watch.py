# SPDX-License-Identifier: LGPL-2.1-or-later
"""Looks at a guest all the while: does its heartbeat's count ever go back, does it ever run at both hosts, and since when
does it run where."""

import select
import socket
import struct
import threading
import time

MAGIC = b"XMHBEAT1"
ANSWER = 24


class Watch(threading.Thread):
    """Runs from start() to stop(). `problems` are sentences."""

    def __init__(self, hosts, name, heartbeat_port, interval=0.02):
        super().__init__(daemon=True)
        self.hosts, self.name, self.interval = hosts, name, interval
        self.problems = []
        self.began_anew = None  # a sentence, when the count went back
        self.count = 0  # of the last heartbeat's answer
        self.answers = 0
        self.where = []  # (since, host name or None), as it changed
        self.ended = threading.Event()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.port = heartbeat_port
        self.sequence = 0

    def stop(self):
        self.ended.set()
        self.join()
        self.socket.close()

    def problem(self, text):
        if text not in self.problems:
            self.problems.append(text)

    def beat(self):
        self.sequence += 1
        try:
            self.socket.sendto(MAGIC + struct.pack(">Q", self.sequence), ("127.0.0.1", self.port))
        except OSError:
            pass

    def hear(self):
        while select.select([self.socket], [], [], 0)[0]:
            try:
                message = self.socket.recv(ANSWER + 1)
            except OSError:
                return
            if len(message) != ANSWER or message[:8] != MAGIC:
                continue
            count = struct.unpack_from(">Q", message, 16)[0]
            if count <= self.count:
                self.began_anew = f"the heartbeat's count went back from {self.count} to {count}: what clients saw is lost"
            self.count = count
            self.answers += 1

    def running(self, host):
        d = host.guest(self.name)
        return d["pid"] if d and d.get("state") == "running" else None

    def look(self):
        first, second = self.hosts
        here, there = self.running(first), self.running(second)
        # Two answers are not of one moment: it must run here before and after it was seen there.
        if here and there and self.running(first) == here:
            self.problem(f"the guest runs at {first.name} and at {second.name} at once")
        now = first.name if here else second.name if there else None
        if not self.where or self.where[-1][1] != now:
            self.where.append((time.monotonic(), now))

    def run(self):
        while not self.ended.wait(self.interval):
            self.beat()
            self.look()
            self.hear()
        self.hear()

    def since(self, host_name):
        """Since when it runs at this host without a break; None: it does not."""
        return self.where[-1][0] if self.where and self.where[-1][1] == host_name else None
