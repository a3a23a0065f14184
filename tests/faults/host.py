# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two "hosts" on one machine: folders, receivers, embedded guests, and what is true of them.

A host is a folder with its own state, run and SR folders; what runs in it carries its XMOTION_RUN_DIR in the environment
and is found and ended by that. Where this machine lets us, a worker has a network and a mount namespace of its own: then the
state and SR folders are small tmpfs, which can be really full, and the network can really lose packets."""

import ctypes
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
import uuid

MIB = 1 << 20
STATE_SIZE = "1m"
SR_SIZE = "96m"
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
PR_SET_PDEATHSIG = 1
SMALL = 4096
BOOT_ID = "/proc/sys/kernel/random/boot_id"

_libc = ctypes.CDLL(None, use_errno=True)


class Failure(Exception):
    """What a check found wrong, in one sentence."""


# -- namespaces --

def _interface_up(name):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = bytearray(struct.pack("16sH14x", name.encode(), 0))
        fcntl_ioctl(s, SIOCGIFFLAGS, request)
        flags = struct.unpack_from("H", request, 16)[0] | 1
        fcntl_ioctl(s, SIOCSIFFLAGS, bytearray(struct.pack("16sH14x", name.encode(), flags)))


def fcntl_ioctl(s, code, request):
    import fcntl
    fcntl.ioctl(s, code, request)


def enter_namespaces():
    """For the calling process, which has no threads yet. Returns whether it worked."""
    if os.geteuid() != 0 or _libc.unshare(CLONE_NEWNS | CLONE_NEWNET) != 0:
        return False
    _libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    _interface_up("lo")
    return True


def mount_tmpfs(path, size):
    return subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", path],
                          stderr=subprocess.DEVNULL).returncode == 0


# -- processes --

def process_state(pid):
    """One letter of /proc/PID/stat: R, S, T (stopped), Z ...; None: there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0].decode()
    except (FileNotFoundError, ProcessLookupError):
        return None


def processes_with(text):
    """{pid: command line} of live processes whose environment has the text."""
    wanted, found = text.encode(), {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if wanted not in file.read():
                    continue
            with open(f"/proc/{name}/cmdline", "rb") as file:
                line = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if line and process_state(int(name)) not in (None, "Z", "X"):
            found[int(name)] = line
    return found


def what_it_does(pid):
    """The threads of a process, what each of them waits for, and its descriptors."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
            if file.read().strip() == "nbdkit":
                return "serves a disk"
        threads = {t: (process_state(f"{pid}/task/{t}"), _line(f"/proc/{pid}/task/{t}/wchan"), _line(f"/proc/{pid}/task/{t}/syscall"))
                   for t in os.listdir(f"/proc/{pid}/task")}
        return f"threads {threads} descriptors { {n: os.readlink(f'/proc/{pid}/fd/{n}') for n in os.listdir(f'/proc/{pid}/fd')} }"
    except OSError:
        return "it is gone"


def _line(path):
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def kill(pid, signo=signal.SIGKILL):
    try:
        os.kill(pid, signo)
    except ProcessLookupError:
        pass


def wait_for(condition, seconds, step=0.003):
    """Until the condition is true: its value, or what it was at the end."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(step)


# -- one guest, asked through its socket --

def ask(path, request, seconds=5.0):
    """One request of a SEQPACKET socket that speaks JSON; None when nobody answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.settimeout(seconds)
        try:
            s.connect(path)
            s.sendall(json.dumps(request).encode())
            answer = s.recv(1 << 20)
        except OSError:
            return None
    return json.loads(answer) if answer else None


class Host:
    def __init__(self, name, folder, program):
        self.name, self.folder, self.program = name, folder, program
        self.state, self.run, self.sr = (f"{folder}/{part}" for part in ("state", "run", "sr"))
        for path in (self.state, self.run, self.sr):
            os.makedirs(path, mode=0o700, exist_ok=True)
        self.small = False  # state and SR are tmpfs of their own
        self.port = 0
        self.receiver = None
        self.receiver_fault = None
        self.logs = folder
        self.preload = None
        self.boot_holder = None  # keeps a mount namespace, in which this host has a boot of its own
        self.prefix = []

    def mount(self):
        self.small = mount_tmpfs(self.state, STATE_SIZE) and mount_tmpfs(self.sr, SR_SIZE)

    def environment(self, **more):
        e = {k: v for k, v in os.environ.items() if not k.startswith("XMOTION_FAULT")}
        e.update(XMOTION_STATE_DIR=self.state, XMOTION_RUN_DIR=self.run)
        if self.preload:
            e.update(self.preload)
        e.update({k: v for k, v in more.items() if v})
        return e

    def log(self, name):
        return f"{self.logs}/{self.name}-{name}"

    def start(self, name, *arguments, fault=None):
        """xmotion ARGUMENTS in the background; its output is appended to log(NAME) and log(NAME).err."""
        with open(self.log(name), "ab") as out, open(self.log(name) + ".err", "ab") as err:
            return subprocess.Popen([*self.prefix, self.program, *arguments], env=self.environment(XMOTION_FAULT=fault),
                                    stdin=subprocess.DEVNULL, stdout=out, stderr=err)

    def command(self, *arguments, seconds=60):
        """xmotion ARGUMENTS: (exit code, output, errors); a command that does not end is a failure."""
        try:
            done = subprocess.run([*self.prefix, self.program, *arguments], env=self.environment(), stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired as e:
            raise Failure(f"xmotion {' '.join(arguments)} at {self.name} did not end in {seconds} s") from e
        return done.returncode, done.stdout, done.stderr

    def fingerprint(self):
        return re.search("SHA256:[0-9a-f]{64}", self.command("identity")[1]).group()

    # -- receiver --

    def receiver_start(self, fault=None):
        if not self.port:
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                self.port = s.getsockname()[1]
        log = self.log("recv")
        before = os.path.getsize(log) if os.path.exists(log) else 0
        self.receiver = self.start("recv", "recv", "--listen", f"127.0.0.1:{self.port}", "--sr", f"dir:{self.sr}",
                                   "--json", fault=fault)
        self.receiver_fault = fault

        def listening():
            if self.receiver.poll() is not None:
                return True
            with open(log, "rb") as file:
                file.seek(before)
                return b'"listening"' in file.read()

        if not wait_for(listening, 20) or self.receiver.poll() is not None:
            raise Failure(f"the receiver at {self.name} does not start: {tail(log + '.err')}")

    def receiver_kill(self, signo=signal.SIGKILL):
        if self.receiver and self.receiver.poll() is None:
            self.receiver.send_signal(signo)
            if signo == signal.SIGKILL:
                self.receiver.send_signal(signal.SIGCONT)
                self.receiver.wait()

    def receiver_runs(self):
        return self.receiver is not None and self.receiver.poll() is None

    # -- guests --

    def guest_start(self, name, memory, disks, dirty_rate, write_rate):
        """`disks` are sizes; files are NAME-0.img, NAME-1.img in the SR."""
        options = []
        for i, size in enumerate(disks):
            options += ["--disk", f"{self.sr}/{name}-{i}.img:{size}"]
        self.start("guest", "guest", "run", name, "--memory", str(memory), "--dirty-rate", dirty_rate, "--write-rate",
                   write_rate, *options)
        if not wait_for(lambda: self.guest(name), 20):
            raise Failure(f"the guest does not start: {tail(self.log('guest') + '.err')}")

    def guest(self, name, what="describe"):
        return ask(f"{self.run}/guests/{name}.sock", {"command": what})

    def guests(self):
        """{listed name: description} of every embedded guest that answers here, in any state."""
        try:
            names = [n[:-5] for n in os.listdir(f"{self.run}/guests") if n.endswith(".sock")]
        except FileNotFoundError:
            return {}
        found = {name: self.guest(name) for name in names}
        return {name: d for name, d in found.items() if d and "state" in d}

    def guest_destroy_all(self):
        for d in self.guests().values():
            kill(d["pid"])

    def processes(self):
        return processes_with(f"XMOTION_RUN_DIR={self.run}")

    def kill_all(self):
        """The whole host as if its power went, but for the kernel."""
        for _ in range(50):
            left = self.processes()
            if not left:
                break
            for pid in left:
                kill(pid)
            time.sleep(0.005)
        if self.receiver:
            self.receiver.wait()

    # -- boots --

    def own_boot(self):
        """From now on what runs here sees a boot id of this host's own. Before anything is started."""
        self.boot_holder = subprocess.Popen(["unshare", "--mount", "sleep", "infinity"], stdin=subprocess.DEVNULL,
                                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                            preexec_fn=lambda: _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
        wait_for(lambda: os.readlink(f"/proc/{self.boot_holder.pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt"), 5)
        self.prefix = ["nsenter", f"--mount=/proc/{self.boot_holder.pid}/ns/mnt", "--"]
        self.new_boot()
        subprocess.run([*self.prefix, "mount", "--bind", f"{self.folder}/boot_id", BOOT_ID], check=True)

    def new_boot(self):
        with open(f"{self.folder}/boot_id", "w", encoding="ascii") as file:
            file.write(f"{uuid.uuid4()}\n")

    def power_cut(self):
        """Everything here dies at once, and what is on no disk is gone."""
        self.kill_all()
        shutil.rmtree(self.run)
        os.mkdir(self.run, 0o700)
        self.new_boot()

    def shared_boot(self):
        if self.boot_holder:
            self.boot_holder.kill()
            self.boot_holder.wait()
        self.boot_holder, self.prefix = None, []

    def wipe(self):
        """No volume, no journal, no socket; identities stay."""
        for path in (self.sr, self.run, f"{self.state}/incoming", f"{self.state}/outgoing"):
            for name in os.listdir(path) if os.path.isdir(path) else []:
                full = f"{path}/{name}"
                shutil.rmtree(full) if os.path.isdir(full) and not os.path.islink(full) else os.unlink(full)
        self.unfill()

    # -- full disks --

    def fill(self, path):
        """Leaves no space in a tmpfs; unfill gives it back."""
        with open(f"{path}/.filler", "ab", buffering=0) as file:
            piece = MIB
            while piece >= SMALL:
                try:
                    file.write(bytes(piece))
                except OSError:
                    piece //= 2

    def unfill(self):
        for path in (self.state, self.sr):
            try:
                os.unlink(f"{path}/.filler")
            except FileNotFoundError:
                pass

    # -- what is there --

    def journals(self):
        return [path for path in self.journal_files() if path.endswith(".json")]

    def journal_files(self):
        """With what lies beside them: locks, versions that were being written."""
        found = []
        for side in ("outgoing", "incoming"):
            folder = f"{self.state}/{side}"
            found += [f"{folder}/{n}" for n in sorted(os.listdir(folder))] if os.path.isdir(folder) else []
        return found

    def jobs(self):
        folder = f"{self.run}/jobs"
        return [f"{folder}/{n}" for n in os.listdir(folder)] if os.path.isdir(folder) else []

    def volumes(self):
        return sorted(n for n in os.listdir(self.sr) if n != ".filler")

    def remove_volumes(self):
        for name in self.volumes():
            os.unlink(f"{self.sr}/{name}")

    def cancel(self):
        """Sends "cancel" to every job here, and does not wait: the answers come into the list that it returns."""
        answers = []
        for path in self.jobs():
            s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                s.settimeout(2)
                s.connect(path)
                s.sendall(b'{"cmd":"cancel"}')
            except OSError:
                s.close()
                continue
            answers.append({})
            threading.Thread(target=_take_answer, args=(s, answers[-1]), daemon=True).start()
        return answers


def _take_answer(s, answer):
    with s:
        s.settimeout(30)
        try:
            answer["taken"] = "error" not in json.loads(s.recv(4096))
        except (OSError, ValueError):
            pass


def tail(path, size=300):
    try:
        with open(path, "rb") as file:
            return file.read().decode(errors="replace").strip()[-size:]
    except FileNotFoundError:
        return ""


def pair(source, target, address):
    """`source` may send to `target`, which it reaches at `address`."""
    code, _, text = target.command("authorize", source.fingerprint(), "--comment", f"host {source.name}")
    if code == 0:
        code, _, text = source.command("trust", address, "--fingerprint", target.fingerprint())
    if code:
        raise Failure(f"pairing {source.name} with {target.name}: {text.strip()}")
