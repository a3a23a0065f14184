# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who copies a disk image from one end to the other over mutual TLS 1.3, each at its best tuning: xmotion and its peers."""

import json
import os
import shutil
import socket
import subprocess

from machine import NAME, Failure, Group, run, wait_for

TLS = "tls"
KEY = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]


def make_certificates(folder):
    """A CA, and one certificate that both ends show, in the layout that libnbd, nbdkit and QEMU expect."""
    os.makedirs(folder)
    ca, key = f"{folder}/ca-cert.pem", f"{folder}/ca-key.pem"
    run([*KEY, "-subj", "/CN=bench CA", "-keyout", key, "-out", ca])
    run([*KEY, "-subj", "/CN=target", "-addext", "subjectAltName=DNS:target", "-addext", "basicConstraints=CA:FALSE",
         "-CA", ca, "-CAkey", key, "-keyout", f"{folder}/server-key.pem", "-out", f"{folder}/server-cert.pem"])
    for part in ("key", "cert"):
        shutil.copy(f"{folder}/server-{part}.pem", f"{folder}/client-{part}.pem")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Copy:
    """One copy of `source` to `target`. A peer prepares its server, then is measured from the start of its client to its end."""

    name = "?"
    programs = ()
    wire = None  # octets that crossed the link, where the peer itself says so

    def __init__(self, link, work, source, target):
        self.link, self.work, self.source, self.target = link, work, source, target
        self.size = os.path.getsize(source)
        self.server, self.client = Group("server", work), Group("client", work)
        self.port = free_port()

    def prepare(self):
        """Not measured: starts the server."""

    def copy(self):
        raise NotImplementedError

    def settle(self):
        """Not measured: after it the target file holds everything."""

    def end(self):
        self.server.end()
        self.client.end()

    def serve(self, command, **options):
        """A server at the other end of the link, which listens then."""
        self.server.start([*self.link.prefix, *command], **options)
        wait_for(lambda: self.link.listens(self.port), 20, f"{command[0]} listens")

    def run_client(self, command, **options):
        self.client.finish(self.client.start(command, **options))


# -- xmotion --

class Xmotion(Copy):
    name = "xmotion"
    options = ()

    def prepare(self):
        self.program = os.environ["XMOTION"]
        self.sr = f"{self.work}/sr"
        os.makedirs(self.sr, exist_ok=True)
        for host in ("a", "b"):
            os.makedirs(f"{self.work}/{host}", mode=0o700, exist_ok=True)
        address = f"{NAME}:{self.port}"
        fingerprints = {host: self.run(host, "identity").split("SHA256:")[1][:64] for host in ("a", "b")}
        self.run("b", "authorize", "SHA256:" + fingerprints["a"])
        self.serve([self.program, "recv", "--listen", f"{self.link.address}:{self.port}", "--sr", f"dir:{self.sr}", "--allow-disk", self.target],
                   env=self.environment("b"))
        self.run("a", "trust", address, "--fingerprint", "SHA256:" + fingerprints["b"])

    def environment(self, host):
        return dict(os.environ, XMOTION_STATE_DIR=f"{self.work}/{host}/state", XMOTION_RUN_DIR=f"{self.work}/{host}/run")

    def run(self, host, *arguments):
        return run([self.program, *arguments], env=self.environment(host))

    def send(self, guest, *options):
        """Moves it; returns the result."""
        with open(f"{self.work}/events", "w", encoding="utf-8") as out:
            self.run_client([self.program, "send", guest, f"{NAME}:{self.port}", "--json", *options], env=self.environment("a"), stdout=out)
        with open(f"{self.work}/events", encoding="utf-8") as file:
            result = json.loads(file.readlines()[-1])
        if result["outcome"] != "moved" or not all(d["verified"] for d in result["disks"]):
            raise Failure(f"xmotion: {result}")
        return result

    def start_guest(self, group, *options):
        """The embedded guest g at the sending end, which runs then."""
        group.start([self.program, "guest", "run", "g", *options], env=self.environment("a"))
        stats = [self.program, "guest", "stats", "g"]
        wait_for(lambda: subprocess.run(stats, env=self.environment("a"), stdin=subprocess.DEVNULL, capture_output=True,
                                        check=False).returncode == 0, 30, "the guest runs")

    def copy(self):
        self.send(f"disk:{self.source}", *self.where(), *self.options)

    def where(self):
        return ["--sr", f"dir:{self.sr}"]

    def settle(self):
        made = os.listdir(self.sr)
        if len(made) != (0 if os.path.exists(self.target) else 1):
            raise Failure(f"xmotion: the SR holds {made}")
        if made:
            os.rename(f"{self.sr}/{made[0]}", self.target)


class XmotionPlain(Xmotion):
    name = "xmotion --compress=none"
    options = ("--compress", "none")


class XmotionNamed(Xmotion):
    """To a disk that is there, named by the sender: an SR must have room for all of a sparse disk."""

    name = "xmotion --disk"
    how = ""

    def prepare(self):
        if not os.path.exists(self.target):
            with open(self.target, "wb") as file:
                file.truncate(self.size)
        super().prepare()

    def where(self):
        return ["--disk", f"{os.path.basename(self.source)}={self.target}{self.how}"]


class XmotionReuse(XmotionNamed):
    name = "xmotion --reuse"
    how = ",reuse"


# -- NBD --

class Nbdcopy(Copy):
    name = "nbdcopy"
    programs = ("nbdcopy", "nbdkit")
    options = ()

    def prepare(self):
        with open(self.target, "ab") as file:
            file.truncate(self.size)
        self.serve(["nbdkit", "-f", "--exit-with-parent", "-i", self.link.address, "-p", str(self.port), "--tls=require",
                    f"--tls-certificates={self.work}/{TLS}", "--tls-verify-peer", "file", self.target])

    def copy(self):
        self.run_client(["nbdcopy", *self.options, "--flush", self.source,
                         f"nbds://{NAME}:{self.port}/?tls-certificates={self.work}/{TLS}"])


class NbdcopyFar(Nbdcopy):
    name = "nbdcopy --destination-is-zero --connections=8"
    options = ("--destination-is-zero", "--connections=8")


class NbdcopyZero(Nbdcopy):
    name = "nbdcopy --destination-is-zero"
    options = ("--destination-is-zero",)


class QemuImg(Nbdcopy):
    name = "qemu-img convert -n -W -m16 --target-is-zero"
    programs = ("qemu-img", "nbdkit")

    def copy(self):
        self.run_client(["qemu-img", "convert", "-n", "-W", "-m", "16", "--target-is-zero", "-f", "raw", "--object",
                         f"tls-creds-x509,id=tls,dir={self.work}/{TLS},endpoint=client", "--target-image-opts", self.source,
                         f"driver=nbd,server.type=inet,server.host={NAME},server.port={self.port},tls-creds=tls"])


class Monitor:
    """QEMU's control socket: commands and events."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        wait_for(lambda: self._try(path), 20, path)
        self.file = self.socket.makefile("r")
        self.events = []
        self.file.readline()
        self.command("qmp_capabilities")

    def _try(self, path):
        try:
            self.socket.connect(path)
            return True
        except OSError:
            return False

    def _line(self):
        line = self.file.readline()
        if not line:
            raise Failure("the monitor is gone")
        return json.loads(line)

    def command(self, name, **arguments):
        self.socket.sendall(json.dumps({"execute": name, "arguments": {k.replace("_", "-"): v for k, v in arguments.items()}}).encode())
        while True:
            answer = self._line()
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise Failure(f"{name}: {answer['error']['desc']}")
            else:
                return answer["return"]

    def wait_event(self, wanted, seconds):
        """The event, with the time at which it was sent."""
        self.socket.settimeout(seconds)
        try:
            while True:
                for event in self.events:
                    if wanted(event):
                        self.events.remove(event)
                        return event
                self.events.append(self._line())
        except TimeoutError:
            self.file = self.socket.makefile("r")  # the old one refuses to read after a timeout
            return None
        finally:
            self.socket.settimeout(None)

    def close(self):
        self.file.close()
        self.socket.close()


def at(event):
    """The time of day at which QEMU sent it."""
    return event["timestamp"]["seconds"] + event["timestamp"]["microseconds"] / 1e6


def is_job(status):
    return lambda e: e["event"] == "JOB_STATUS_CHANGE" and e["data"]["status"] == status


class Mirror(Nbdcopy):
    """QEMU's mirror job in its storage daemon, to be compared once it is ready."""

    name = "QEMU blockdev-mirror"
    programs = ("qemu-storage-daemon", "nbdkit")

    def copy(self):
        path = f"{self.work}/qmp"
        process = self.client.start([
            "qemu-storage-daemon", "--object", f"tls-creds-x509,id=tls,dir={self.work}/{TLS},endpoint=client",
            "--blockdev", f"driver=file,node-name=source,filename={self.source},cache.direct=off",
            "--blockdev", f"driver=nbd,node-name=target,server.type=inet,server.host={NAME},server.port={self.port},tls-creds=tls",
            "--chardev", f"socket,id=c,path={path},server=on,wait=off", "--monitor", "chardev=c"])
        monitor = Monitor(path)
        monitor.command("blockdev-mirror", job_id="copy", device="source", target="target", sync="full")
        if not monitor.wait_event(is_job("ready"), 120):
            raise Failure("the mirror does not get ready")
        monitor.command("job-complete", id="copy")
        if not monitor.wait_event(is_job("concluded"), 60):
            raise Failure("the mirror does not conclude")
        self.client.note_rss()
        monitor.command("quit")
        monitor.close()
        self.client.finish(process)


# -- pipes and rsync --

class Ssh(Copy):
    name = "dd | ssh aes128-gcm | dd"
    programs = ("sshd", "ssh", "ssh-keygen")

    def prepare(self):
        keys = f"{self.work}/ssh"
        if not os.path.isdir(keys):
            os.makedirs(keys, mode=0o700)
            for name in ("host", "user"):
                run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{keys}/{name}"])
            shutil.copy(f"{keys}/user.pub", f"{keys}/authorized")
        os.makedirs("/run/sshd", exist_ok=True)
        self.serve([shutil.which("sshd", path="/usr/sbin:/sbin"), "-D", "-e", "-f", "/dev/null", "-p", str(self.port), "-h", f"{keys}/host", "-o",
                    f"AuthorizedKeysFile={keys}/authorized", "-o", f"ListenAddress={self.link.address}", "-o", "StrictModes=no", "-o", "PidFile=none",
                    "-o", "PermitRootLogin=prohibit-password", "-o", "UsePAM=no"])

    def command(self):
        keys = f"{self.work}/ssh"
        return ["ssh", "-q", "-F", "/dev/null", "-i", f"{keys}/user", "-p", str(self.port), "-c", "aes128-gcm@openssh.com", "-o",
                "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", NAME]

    def copy(self):
        with open(self.source, "rb") as file:
            self.run_client([*self.command(), f"dd of={self.target} bs=256k conv=sparse iflag=fullblock status=none; truncate -s {self.size} {self.target}"],
                            stdin=file)


class ZstdSsh(Ssh):
    """What a person does on a slow link."""

    name = "zstd -1 | ssh | zstd -d"
    programs = ("sshd", "ssh", "ssh-keygen", "zstd")

    def copy(self):
        read, write = os.pipe()
        packer = self.client.start(["zstd", "-1", "-T2", "-q", "-c", self.source], stdout=write)
        os.close(write)
        shell = self.client.start([*self.command(), f"zstd -d -q --sparse -f -o {self.target}"], stdin=read)
        os.close(read)
        self.client.finish(packer)
        self.client.finish(shell)
        os.truncate(self.target, self.size)


class Rsync(Copy):
    """To an rsync daemon behind stunnel, which asks for the client's certificate."""

    programs = ("rsync", "stunnel4")
    options = ()

    def prepare(self):
        self.inner, self.outer = free_port(), free_port()
        self.files = f"{self.work}/rsync"
        os.makedirs(self.files, exist_ok=True)
        tls = f"{self.work}/{TLS}"
        self.write("rsyncd.conf", f"use chroot = no\nuid = 0\ngid = 0\n[d]\npath = {os.path.dirname(self.target)}\nread only = no\n")
        self.write("server.conf", f"foreground = yes\npid =\n[r]\naccept = 127.0.0.1:{self.outer}\nconnect = 127.0.0.1:{self.inner}\n"
                   f"cert = {tls}/server-cert.pem\nkey = {tls}/server-key.pem\nCAfile = {tls}/ca-cert.pem\nverifyChain = yes\nsslVersion = TLSv1.3\n")
        self.write("client.conf", f"foreground = yes\npid =\n[r]\nclient = yes\naccept = 127.0.0.1:{self.port}\nconnect = 127.0.0.1:{self.outer}\n"
                   f"cert = {tls}/client-cert.pem\nkey = {tls}/client-key.pem\nCAfile = {tls}/ca-cert.pem\nverifyChain = yes\nsslVersion = TLSv1.3\n")
        self.server.start(["rsync", "--daemon", "--no-detach", f"--config={self.files}/rsyncd.conf", f"--port={self.inner}", "--address=127.0.0.1"])
        self.server.start(["stunnel4", f"{self.files}/server.conf"])
        self.client.start(["stunnel4", f"{self.files}/client.conf"])
        for port in (self.inner, self.outer, self.port):
            wait_for(lambda at=port: self.link.listens(at), 20, "rsync and stunnel listen")

    def write(self, name, text):
        with open(f"{self.files}/{name}", "w", encoding="utf-8") as file:
            file.write(text)

    def copy(self):
        self.run_client(["rsync", *self.options, "--no-compress", "--stats", self.source,
                         f"rsync://127.0.0.1:{self.port}/d/{os.path.basename(self.target)}"])
        self.wire = self._wire()

    def _wire(self):
        """As rsync says: the link carries each octet three times, twice of them between it and stunnel."""
        with open(self.client.log, encoding="utf-8", errors="replace") as file:
            lines = [line for line in file if line.startswith(("Total bytes sent:", "Total bytes received:"))][-2:]
        return sum(int(line.split(":")[1].replace(",", "")) for line in lines)


class RsyncCold(Rsync):
    name = "rsync -S --inplace -W"
    options = ("-S", "--inplace", "-W")


class RsyncBlocks(Rsync):
    name = "rsync --inplace --block-size=64K"
    options = ("--inplace", "--no-whole-file", "--ignore-times", "--block-size=65536")


def same(left, right):
    """The two files hold the same octets and have the same size."""
    return os.path.getsize(left) == os.path.getsize(right) and subprocess.run(["cmp", "-s", left, right], check=False).returncode == 0


def allocated(path):
    return os.stat(path).st_blocks * 512

