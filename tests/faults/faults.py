# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can happen to a migration, and how it may end then (docs/switchover.md).

The ends are written as "PLACE:CODE,CODE PLACE:CODE": where exactly one guest runs after both ends have recovered, and exit
codes of the sender that go with it ("killed" for one that was). A key of `ends_by` is a state's name or a group's (states.py)."""

import os
import signal
import time

import clock
import loss
from host import Failure, kill, process_state, wait_for

MOVED = "target:0"
STAYS = "source:1"
REFUSED = "source:1,3"
DEFAULT = {"early": REFUSED, "before": STAYS, "edge": f"source:1,5 {MOVED}", "after": "target:0,5", "end": MOVED}


class Fault:
    """A column of the matrix. Subclasses override what differs."""

    holds = True  # the run is stopped in the state while the fault is applied
    opens_link = True  # the state "connect" goes on after it
    reconnect_for = "1s"
    limit = 20.0  # seconds within which the sender must end
    patience = 0.0  # seconds more for recovery than usual
    slow = False  # mostly waits: runs beside others
    watch_every = 0.02
    send_options = ()
    needs_small = False  # needs tmpfs of our own
    needs_options = ()  # of send

    def __init__(self, name, what, ends_by=None, not_for=None, **more):
        self.name, self.what = name, what
        self.ends_by = dict(DEFAULT, **(ends_by or {}))
        self.not_for = not_for or {}
        for key, value in more.items():
            setattr(self, key, value)

    def not_applicable(self, state):
        """Why there is no such cell; None: there is."""
        return self.not_for.get(state.name) or self.not_for.get(state.group)

    def cannot(self, rig):
        """Why this machine cannot do it; None: it can."""
        return "needs root: a network and mounts of its own" if self.needs_small and not rig.small else None

    def ends(self, state):
        return self.ends_by.get(state.name) or self.ends_by[state.group]

    def allows(self, state, place, code):
        for end in self.ends(state).split():
            where, _, codes = end.partition(":")
            if where == place and str(code) in codes.split(","):
                return True
        return False

    def may_begin_anew(self, state):
        """Whether the guest may lose its memory."""
        return False

    def environment(self, state):
        """(XMOTION_FAULT of the sender, of the receiver), or None."""
        return None

    def before(self, cell):
        pass

    def apply(self, cell):
        pass

    def later(self, cell):
        """After the run was let go on."""

    def repair(self, cell):
        """Ends what would go on; the receiver runs and the link is good again."""
        cell.link.back()
        cell.link.flow()
        cell.link.slow(0)
        cell.link.corrupt(0)
        if not cell.far.receiver_runs():
            cell.far.receiver_start()
        for host in (cell.near, cell.far):
            host.unfill()


class KillSender(Fault):
    def apply(self, cell):
        kill(cell.sender.pid)
        cell.sender.wait()
        cell.held = None if cell.held == cell.sender.pid else cell.held

    def later(self, cell):
        if cell.state.group in ("early", "before"):
            cell.check_again_in_time()


class KillReceiver(Fault):
    """Started again when `back` seconds have passed; None: only for recovery."""

    back = 0.2

    def apply(self, cell):
        cell.far.receiver_kill()
        cell.held = None if cell.held == cell.far.receiver.pid else cell.held

    def later(self, cell):
        if self.back is not None:
            time.sleep(self.back)
            cell.far.receiver_start()


class KillBoth(Fault):
    def apply(self, cell):
        kill(cell.sender.pid)
        cell.far.receiver_kill()
        cell.sender.wait()
        cell.held = None

    def later(self, cell):
        if cell.state.group in ("early", "before"):
            cell.check_again_in_time()


class Power(Fault):
    """The power of a host, or of both, is cut; it comes back with another boot, and its receiver starts."""

    which = ("near", "far")
    needs_small = True
    patience = 4.0

    def may_begin_anew(self, state):
        """Memory is lost with the host that the guest was at."""
        return ("near" if state.group in ("early", "before", "edge") else "far") in self.which

    def before(self, cell):
        for host in (cell.near, cell.far):
            host.own_boot()

    def apply(self, cell):
        cell.power_cut = True
        for name in self.which:
            getattr(cell, name).power_cut()
        if "near" in self.which:
            cell.sender.wait()
        if cell.held and process_state(cell.held) is None:
            cell.held = None

    def later(self, cell):
        time.sleep(0.2)
        for name in self.which:
            getattr(cell, name).receiver_start()


class Stop(Fault):
    """SIGSTOP of one end for some time."""

    who = "source"
    seconds = 1.0

    def apply(self, cell):
        pid = cell.sender.pid if self.who == "source" else cell.far.receiver.pid
        kill(pid, signal.SIGSTOP)
        if cell.held != pid:
            cell.release()
        time.sleep(self.seconds)
        kill(pid, signal.SIGCONT)
        if cell.held == pid:
            cell.held = None


class Cut(Fault):
    """The link is cut; `back`: seconds until it is there again, None: when all is over."""

    back = None

    def apply(self, cell):
        cell.link.cut()

    def later(self, cell):
        if self.back is not None:
            time.sleep(self.back)
            cell.link.back()


class HalfClose(Fault):
    direction = "up"

    def apply(self, cell):
        cell.link.half_close(self.direction)


class Stall(Fault):
    opens_link = False
    seconds = None  # until it flows again; None: when all is over

    def apply(self, cell):
        cell.link.stall()

    def later(self, cell):
        if self.seconds is not None:
            time.sleep(self.seconds)
            cell.link.flow()


class Corrupt(Fault):
    limit = 45.0  # a damaged length makes TLS wait for octets that never come: only silence tells (docs/switchover.md)
    pieces = 1
    direction = "up"

    def apply(self, cell):
        cell.link.corrupt(self.pieces, self.direction)


class Slow(Fault):
    rate = 16 << 20
    delay_ms = 10
    send_options = ("--downtime", "3s")

    def apply(self, cell):
        cell.link.slow(self.rate, self.delay_ms)


class Lossy(Fault):
    """Real loss of packets in the worker's own network; see loss.py."""

    percent = 3
    send_options = ("--downtime", "3s")

    def cannot(self, rig):
        return super().cannot(rig) or (None if loss.possible() else "tc or the kernel's cls_bpf is missing")

    def apply(self, cell):
        loss.begin(self.percent)

    def repair(self, cell):
        loss.end()
        super().repair(cell)


class Cancel(Fault):
    """By the job's socket, as xmotion cancel does; sent before the run goes on, so that it comes in this state."""

    where = "near"
    limit = 5.0
    within = 1.0

    def apply(self, cell):
        self.answers = getattr(cell, self.where).cancel()

    def later(self, cell):
        begun = time.monotonic()
        if not wait_for(cell.sender_ended, self.limit):
            return
        took = time.monotonic() - begun
        if cell.code() in (1, 4) and took > self.within:
            raise Failure(f"cancelled, but it took {took:.2f} s")
        if cell.code() == 0 and any(answer.get("taken") for answer in self.answers):
            raise Failure("xmotion cancel was told that it is cancelled, but the guest has moved")


class Terminate(Fault):
    def apply(self, cell):
        kill(cell.sender.pid, signal.SIGTERM)


class TerminateReceiver(Fault):
    """It is started again, as its unit would be."""

    def apply(self, cell):
        cell.far.receiver_kill(signal.SIGTERM)

    def later(self, cell):
        if not wait_for(lambda: not cell.far.receiver_runs(), 10):
            raise Failure("the receiver has not ended 10 s after SIGTERM")
        cell.far.receiver_start()


class GuestEnds(Fault):
    """SIGTERM (it shuts down) or SIGKILL of the guest's process at the source."""

    signo = signal.SIGTERM

    def apply(self, cell):
        cell.guest_touched = True
        kill(cell.guest_pid, self.signo)
        # Its nbdkit waits some seconds for whoever still has a disk open.
        wait_for(lambda: process_state(cell.guest_pid) in (None, "Z"), 10)


class GuestDestroyed(Fault):
    """xmotion guest destroy, which refuses while the guest's memory is moved by somebody."""

    def apply(self, cell):
        code, _, _ = cell.near.command("guest", "destroy", "g")
        cell.guest_touched = code == 0
        if code:
            cell.notes.append("refused: it is being moved")

    def allows(self, state, place, code):
        return super().allows(state, place, code)


class NbdkitKilled(Fault):
    """The server of the source's first disk dies: the guest has lost a disk, whoever moves it."""

    def apply(self, cell):
        cell.guest_touched = cell.state.group in ("early", "before", "edge")
        cell.disk_broken = cell.guest_touched
        for pid, line in cell.near.processes().items():
            if line.startswith("nbdkit") and "disk0.map" in line:
                kill(pid)


class Point(Fault):
    """A fault point fails: nothing is held. `points` is {state name: (of the sender, of the receiver)}."""

    holds = False
    points = {}
    why_not = "no such operation in this state"

    def not_applicable(self, state):
        return None if state.name in self.points else self.why_not

    def environment(self, state):
        return self.points[state.name]


class SelfKill(Point):
    """A fault point kills its process. A receiver comes back."""

    who = "near"

    def later(self, cell):
        if self.who == "near":
            return
        wait_for(lambda: not cell.far.receiver_runs() or cell.sender_ended(), self.limit)
        if not cell.far.receiver_runs():
            time.sleep(0.2)
            cell.far.receiver_start()


class FullDisk(Fault):
    """A tmpfs really has no space left."""

    needs_small = True
    who, part = "far", "sr"

    def apply(self, cell):
        host = getattr(cell, self.who)
        host.fill(getattr(host, self.part))


class TornBeside(KillBoth):
    """Both ends are killed while they replace a journal: half of the next version lies beside it."""

    patience = 4.0

    def apply(self, cell):
        super().apply(cell)
        for host in (cell.near, cell.far):
            for path in host.journals():
                with open(path, "rb") as file:
                    octets = file.read()
                with open(path + ".new", "wb") as file:
                    file.write(octets[:len(octets) // 2])


class Torn(KillBoth):
    """Both ends are killed, and a journal is damaged before they recover: it must be named, and nothing lost by it."""

    who = "far"
    how = "cut"

    def apply(self, cell):
        super().apply(cell)
        cell.leftovers = True
        self.damaged = getattr(cell, self.who).journals()
        for path in self.damaged:
            with open(path, "rb") as file:
                octets = file.read()
            with open(path, "wb") as file:
                file.write(octets[:len(octets) // 2] if self.how == "cut" else os.urandom(len(octets)))

    def repair(self, cell):
        super().repair(cell)
        if not self.damaged:
            raise Failure("there is no journal in this state")
        for host in (cell.far, cell.near):
            code, out, err = host.command("recover")
            if host is getattr(cell, self.who) and (code != 1 or os.path.basename(self.damaged[0]) not in out + err):
                raise Failure(f"recover says with exit code {code} nothing of the damaged {self.damaged[0]}: {out}{err}")
            if not all(os.path.exists(path) for path in self.damaged):
                raise Failure("recovery has removed a journal that it cannot read")


class Clock(Fault):
    """The wall clock of both ends jumps (clock-shim.c)."""

    seconds = 3600

    def before(self, cell):
        for host in (cell.near, cell.far):
            host.preload = clock.preload(cell.rig.folder)
        clock.jump(cell.rig.folder, 0)
        cell.far.receiver_kill()

    def apply(self, cell):
        clock.jump(cell.rig.folder, self.seconds)

