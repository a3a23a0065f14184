# SPDX-License-Identifier: LGPL-2.1-or-later
"""One cell of the matrix: a migration is brought to a state, a fault is applied, things go on, both ends recover, and then
what must be true is looked at. Everything here is of real processes."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

from host import MIB, Failure, Host, kill, pair, process_state, tail, wait_for, what_it_does
from proxy import Link
from watch import Watch

GUEST = "g"
MEMORY = 16 * MIB
DISKS = (8 * MIB, 8 * MIB)
RUNS_AGAIN = 1.0  # seconds from a failure's being known until the guest runs
ENDS = 4.0  # seconds in which a destroyed guest's process ends
RECOVERED = 12.0  # seconds until both ends are clean
LOG_LINE = re.compile("xmotion: (debug|info|warning|error): ")
PLACE_OF_CODE = {0: "target", 1: "source", 3: "source", 4: "source", 6: "target", 5: "unknown", 7: "ended"}


class Rig:
    """Two hosts and a link for each direction. `near` is where the guest is, `far` where it is sent."""

    def __init__(self, folder, program, namespaces, seed=0):
        self.folder, self.program, self.seed = folder, program, seed
        self.hosts = [Host(name, f"{folder}/{name}", program) for name in "ab"]
        self.options = features(program)
        for host in self.hosts:
            if namespaces:
                host.mount()
            host.receiver_start()
        self.links = []
        for i, host in enumerate(self.hosts):
            self.links.append(Link(("127.0.0.1", host.port), seed=seed + i).start())
            pair(self.hosts[1 - i], host, f"127.0.0.1:{self.links[i].port}")
        for host in self.hosts:
            host.receiver_kill()
        self.small = all(host.small for host in self.hosts)
        self.at = 0

    @property
    def near(self):
        return self.hosts[self.at]

    @property
    def far(self):
        return self.hosts[1 - self.at]

    @property
    def link(self):
        return self.links[1 - self.at]

    def log_to(self, folder):
        os.makedirs(folder, exist_ok=True)
        for host in self.hosts:
            host.logs = folder

    def clear(self):
        """Nothing runs, nothing is left; the guest will be made at the first host."""
        for host in self.hosts:
            host.preload = None
            host.kill_all()
            host.receiver = None
            host.shared_boot()
            host.wipe()
        for link in self.links:
            link.reset()
        self.at = 0

    def fresh_guest(self, dirty_rate="4M", write_rate="1M"):
        """Its disks hold something beyond what the guest itself will write, so that copying takes a moment."""
        for i, size in enumerate(DISKS):
            with open(f"{self.near.sr}/{GUEST}-{i}.img", "wb") as file:
                file.truncate(size)
                file.seek(size // 2)
                file.write(os.urandom(size // 4 + size // 8))
        self.near.guest_start(GUEST, MEMORY, DISKS, dirty_rate, write_rate)

    def finish(self):
        self.clear()
        for link in self.links:
            link.stop()
        for host in self.hosts:
            for path in (host.state, host.sr) if host.small else ():
                subprocess.run(["umount", "-l", path], check=False)


def features(program):
    """Options of send that this build has."""
    text = subprocess.run([program, "send", "--help"], capture_output=True, text=True, check=False)
    return set(re.findall("--[a-z-]+", text.stdout + text.stderr))


class Cell:
    """One run. Faults (faults.py) use: rig, near, far, link, hold(), release(), sender, watch."""

    def __init__(self, rig, state, fault, log_folder, reuse=False, heartbeats=0):
        self.reuse = reuse  # an old copy may be at the target, and is taken
        self.heartbeats = heartbeats  # that the guest has counted already
        self.rig, self.state, self.fault = rig, state, fault
        self.near, self.far, self.link = rig.near, rig.far, rig.link
        self.logs = log_folder
        self.sender = None
        self.watch = None
        self.held = None  # pid that a fault point stopped
        self.fault_time = None
        self.guest_pid = None
        self.guest_touched = False  # the fault was meant for the guest itself
        self.leftovers = False  # the fault leaves things that a person must remove
        self.disk_broken = False
        self.notes = []

    # -- getting there --

    def sender_log(self):
        return self.near.log("send")

    def start_sender(self, fault, more=()):
        options = ["--connections", "2", "--timeout", "60s", "--json", "--sr", f"dir:{self.far.sr}"]
        if "--reconnect-for" in self.rig.options:
            options += ["--reconnect-for", self.fault.reconnect_for]
        self.sender = self.near.start("send", "send", f"proc:{GUEST}", f"127.0.0.1:{self.link.port}", *options, *more,
                                      fault=fault)

    def sender_ended(self):
        return self.sender.poll() is not None

    def hold(self):
        """Waits until the state is reached: the process that a fault point stops is stopped."""
        def stopped():
            if self.state.holder == "link":
                return self.link.stats()["accepted"] > self.accepted_before
            pid = self.sender.pid if self.state.holder == "source" else self.far.receiver.pid
            if process_state(pid) == "T":
                self.held = pid
            return self.held

        if not wait_for(lambda: stopped() or self.sender_ended(), 30) or not stopped():
            raise Failure(f"the state {self.state.name} was not reached: {self.sentence() or 'no word of the sender'}")

    def release(self):
        if self.held:
            kill(self.held, signal.SIGCONT)
            self.held = None
        if self.state.holder == "link" and self.fault.opens_link:
            self.link.flow()

    def begin(self):
        self.rig.log_to(self.logs)
        environment = self.fault.environment(self.state)
        hold = self.fault.holds
        source, target = environment or (None, None)
        if hold and self.state.holder == "source":
            source = ",".join(filter(None, (source, self.state.point)))
        if hold and self.state.holder == "target":
            target = ",".join(filter(None, (target, self.state.point)))
        self.fault.before(self)
        if target:
            self.far.receiver_kill()
        if not self.far.receiver_runs():
            self.far.receiver_start(fault=target)
        if not self.reuse and not self.far.guests():
            self.far.remove_volumes()
        if not self.near.guest(GUEST):
            self.rig.fresh_guest()
        description = self.near.guest(GUEST)
        self.guest_pid = description["pid"]
        self.watch = Watch((self.near, self.far), GUEST, description["heartbeat_port"], self.fault.watch_every)
        self.watch.count = self.heartbeats
        self.watch.start()
        self.accepted_before = self.link.stats()["accepted"]
        if hold and self.state.holder == "link":
            self.link.stall()
        self.start_sender(source, (*self.fault.send_options, *(["--reuse"] if self.reuse else [])))
        if hold:
            self.hold()

    # -- what happens --

    def run(self):
        try:
            self.begin()
            self.fault_time = time.monotonic()
            self.fault.apply(self)
            self.release()
            self.fault.later(self)
            self.wait_for_sender()
            self.check_sender()
            self.fault.repair(self)
            self.recover()
            place = self.check_truth()
            self.check_account(place)
            return place
        finally:
            if self.watch and self.watch.is_alive():
                self.watch.stop()

    def wait_for_sender(self):
        if not wait_for(self.sender_ended, self.fault.limit, 0.005):
            kill(self.sender.pid)
            self.sender.wait()
            raise Failure(f"the sender has not ended {self.fault.limit:.0f} s after the fault")

    def code(self):
        """The sender's exit code, "killed", or "signal N" when it died of another one than SIGKILL."""
        code = self.sender.returncode
        return "killed" if code == -signal.SIGKILL else f"signal {-code}" if code < 0 else code

    def result(self):
        """The last event of the sender, if it is the result."""
        try:
            with open(self.sender_log(), encoding="utf-8") as file:
                last = json.loads(file.read().strip().splitlines()[-1])
        except (OSError, IndexError, ValueError):
            return None
        return last if last.get("event") == "result" else None

    def sentence(self):
        """What the sender said on standard error, without warnings of its log."""
        lines = tail(self.sender_log() + ".err", 4000).splitlines()
        return "\n".join(line for line in lines if line.startswith("xmotion: ") and not LOG_LINE.match(line))

    def check_sender(self):
        """Its account must be whole: a result event, one sentence when it failed, and the guest where it says."""
        code = self.code()
        if code == "killed":
            return
        result = self.result()
        if not result:
            raise Failure(f"exit code {code} and no result event; {self.sentence()}")
        if result["guest_is_at"] != PLACE_OF_CODE.get(code):
            raise Failure(f"exit code {code}, but guest_is_at \"{result['guest_is_at']}\"")
        if code and not re.fullmatch(r"xmotion: [^\n]{15,}", self.sentence()):
            raise Failure(f"exit code {code} with no one sentence but \"{self.sentence()}\"")
        if code == 0 and self.sentence():
            raise Failure(f"exit code 0, but it says \"{self.sentence()}\"")
        if result["guest_is_at"] == "source" and not self.guest_touched and not self.runs_at(self.near):
            raise Failure("the sender ended, and the guest that it says is at the source does not run")

    def runs_at(self, host):
        d = host.guest(GUEST)
        return bool(d) and d.get("state") == "running"

    def check_again_in_time(self):
        """After a sender that was killed before GO: the guest runs at the source within a second."""
        if not wait_for(lambda: self.runs_at(self.near), RUNS_AGAIN):
            raise Failure(f"the guest does not run at the source {RUNS_AGAIN} s after the sender was killed")

    # -- recovery --

    def left(self):
        """What is still there of the migration, in words; empty: nothing."""
        what = []
        for host in (self.near, self.far):
            what += [f"journal {os.path.basename(j)} at {host.name}" for j in host.journal_files()]
            what += [f"half of a guest {name} at {host.name}" for name in host.guests() if name != GUEST]
            expected = self.volumes_of(host)
            what += [f"volume {v} at {host.name}" for v in host.volumes() if v not in expected]
        if not self.guest_touched and not any(self.runs_at(h) for h in (self.near, self.far)):
            what.append("no guest that runs")
        return what

    def volumes_of(self, host):
        """Volumes that may be at this host: those of the guest, and the source's, which are kept."""
        if host is self.near or self.runs_at(host) or (self.reuse and host.volumes()):
            return {f"{GUEST}-{i}.img" for i in range(len(DISKS))}
        return set()

    def recover_once(self, host):
        code, out, err = host.command("recover")
        with open(host.log("recover"), "a", encoding="utf-8") as file:
            file.write(f"--- exit code {code}\n{out}{err}")

    def recover(self):
        if self.leftovers:
            return
        end = time.monotonic() + RECOVERED + self.fault.patience
        while self.left():
            if time.monotonic() > end:
                raise Failure("after recovery there is left: " + ", ".join(self.left()))
            for host in (self.far, self.near):
                if self.has_recover():
                    self.recover_once(host)
            wait_for(lambda: not self.left(), 0.5, 0.05)

    def has_recover(self):
        return "recover" in subprocess.run([self.rig.program, "--help"], capture_output=True, text=True, check=False).stdout

    # -- what must be true --

    def check_truth(self):
        """Exactly one guest, whole, and nothing else. Returns where: "source", "target", "ended", or "still" when a person must
        look: then it stands still at the source."""
        running = [host for host in (self.near, self.far) if self.runs_at(host)]
        if len(running) > 1:
            raise Failure("the guest runs at both hosts")
        still = self.leftovers and not running and bool(self.near.guest(f"{GUEST}--moved"))
        if not running and not self.guest_touched and not still:
            raise Failure("the guest runs nowhere")
        self.check_watch(bool(running))
        for host in running:
            if host is self.far or not self.disk_broken:
                self.check_whole(host)
        for host in (self.near, self.far):
            if not self.leftovers:
                self.check_clean(host, host in running)
        if not running:
            return "still" if still else "ended"
        return "source" if running[0] is self.near else "target"

    def check_watch(self, runs):
        count = self.watch.count
        # The last word on whether the count goes back is that of answers from where the guest is now.
        if runs and not wait_for(lambda: self.watch.count != count, 3):
            raise Failure("the guest answers no heartbeat")
        self.watch.stop()
        if self.watch.began_anew and self.fault.may_begin_anew(self.state):
            self.notes.append("started anew from its disks")
        elif self.watch.began_anew:
            self.watch.problem(self.watch.began_anew)
        if self.watch.problems:
            raise Failure("; ".join(self.watch.problems))

    def check_whole(self, host):
        code, _, text = host.command("guest", "verify", GUEST)
        if code:
            raise Failure(f"the guest at {host.name} is not whole: {text.strip()}")

    def strangers(self, host, guest):
        """Command lines of what runs at this host and belongs to nobody."""
        found = []
        for pid, line in host.processes().items():
            own_disk = guest and line.startswith("nbdkit") and f"/d{guest['pid']}/" in line
            own = guest and pid == guest["pid"] or host.receiver_runs() and pid == host.receiver.pid
            if not own and not own_disk:
                found.append(line)
        return found

    def check_clean(self, host, has_guest):
        guest = host.guest(GUEST) if has_guest else None
        if not wait_for(lambda: not self.strangers(host, guest), ENDS, 0.05):
            raise Failure(f"left running at {host.name}: {'; '.join(self.strangers(host, guest))}")
        self.check_files(host, guest)

    def check_files(self, host, guest):
        left = host.journal_files()
        expected = self.volumes_of(host)
        left += [v for v in host.volumes() if v not in expected]
        if guest and set(host.volumes()) != expected:
            raise Failure(f"volumes at {host.name} are {host.volumes()}, expected {sorted(expected)}")
        # A socket of a killed process is refused by the next command that looks, and goes.
        host.command("list")
        left += host.jobs()
        folder = f"{host.run}/guests"
        mine = {f"{GUEST}.sock", f"d{guest['pid']}"} if guest else set()
        if not self.guest_touched:
            left += [n for n in (os.listdir(folder) if os.path.isdir(folder) else []) if n not in mine]
        if left:
            raise Failure(f"left at {host.name}: {', '.join(left)}")
        for name in expected if has_size(host, expected) else ():
            if os.path.getsize(f"{host.sr}/{name}") != DISKS[int(name[-5])]:
                raise Failure(f"{name} at {host.name} has {os.path.getsize(f'{host.sr}/{name}')} octets")

    def check_account(self, place):
        """The sender's word and what is true agree, and it is one of the ends that this cell may have."""
        code = self.code()
        said = "unknown" if code == "killed" else PLACE_OF_CODE.get(code)
        if said not in ("unknown", place):
            raise Failure(f"the sender said with exit code {code} that the guest is at: {said}; it is at: {place}")
        if not self.fault.allows(self.state, place, code):
            raise Failure(f"the guest is at: {place}, exit code {code}; expected {self.fault.ends(self.state)}"
                          f" ({self.sentence()})")


def has_size(host, names):
    return all(os.path.exists(f"{host.sr}/{name}") for name in names)


def keep_logs(rig, folder):
    """Adds to a cell's logs what else tells about it."""
    with open(f"{folder}/what-is-there", "w", encoding="utf-8") as file:
        for host in rig.hosts:
            print(f"{host.name}: guests {host.guests()}\n volumes {host.volumes()}\n journals {host.journals()}", file=file)
            for pid, line in host.processes().items():
                print(f" process {pid}: {line}\n  {what_it_does(pid)}", file=file)
    for host in rig.hosts:
        for path in host.journal_files():
            shutil.copy(path, f"{folder}/{host.name}-{os.path.basename(os.path.dirname(path))}-{os.path.basename(path)}")
