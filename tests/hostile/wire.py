# SPDX-License-Identifier: LGPL-2.1-or-later
"""As much of docs/protocol.md as a bad peer needs."""
import json
import os
import socket
import ssl
import struct

MAGIC = 0x584D
HELLO, PREPARE, PREPARED, ABORT, FAILED, CHECK, CHECKED, DISK_DATA = 1, 2, 3, 12, 14, 17, 18, 32
HEADER = struct.Struct(">HHIQ")


def record(kind, body, sequence=0, length=None):
    return HEADER.pack(MAGIC, kind, len(body) if length is None else length, sequence) + body


def hello(role="control", session=None):
    session = session or os.urandom(16).hex()
    return record(HELLO, json.dumps({"protocol": 1, "role": role, "session": session, "features": []}).encode())


def context(folder=None):
    """Of a client that believes every receiver, and shows the certificate in this state folder."""
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    c.check_hostname = False
    c.verify_mode = ssl.CERT_NONE
    c.minimum_version = ssl.TLSVersion.TLSv1_3
    if folder:
        c.load_cert_chain(os.path.join(folder, "identity.crt"), os.path.join(folder, "identity.key"))
    return c


def client_hello():
    """A valid one; the receiver would go on with the handshake."""
    out = ssl.MemoryBIO()
    try:
        context().wrap_bio(ssl.MemoryBIO(), out).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


class Peer:
    """An authorized one, on one connection."""

    def __init__(self, where, folder, role="control", session=None, timeout=40):
        self.sock = context(folder).wrap_socket(socket.create_connection(where, timeout=timeout))
        self.sequence = 0
        self.role = role
        self.send_raw(hello(role, session))
        self.sequence = 1

    def send_raw(self, octets):
        self.sock.sendall(octets)

    def send(self, kind, message):
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.send_raw(record(kind, body, self.sequence))
        self.sequence += 1

    def exactly(self, n):
        got = b""
        while len(got) < n:
            part = self.sock.recv(n - len(got))
            if not part:
                raise EOFError
            got += part
        return got

    def receive(self):
        """The next record but HELLO, PING and PONG: (type, object)."""
        while True:
            _, kind, length, _ = HEADER.unpack(self.exactly(HEADER.size))
            body = self.exactly(length)
            if kind not in (HELLO, 15, 16):
                return kind, json.loads(body or b"{}")

    def close(self):
        self.sock.close()
