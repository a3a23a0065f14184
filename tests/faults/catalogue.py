# SPDX-License-Identifier: LGPL-2.1-or-later
"""The columns of the matrix: every fault, where it makes no sense, and the ends that it may have."""

import signal

import faults as f

MOVED = f.MOVED
EDGE = f"source:1,5 {MOVED}"
# A drop after PREPARED is survived: the sender connects again and goes on.
RESUMES = {"before": MOVED, "edge": "source:1,5 target:0,5", "after": "target:0,5"}
# Between READY and GO nothing is read from the link: GO is sent into a dead one, and asked about.
DEAD_AT_READY = {"ready": "source:1,5 target:0,5"}
# Damage to the first octets of a data connection's TLS can make it look like no TLS at all.
HELLO = {"prepared": f"{MOVED} {f.STAYS}"}
# Or the way up is dead when READY comes down.
UP_AT_FINAL = {"final": "source:1,5 target:0,5"}
RESUMES.update(DEAD_AT_READY)
SURVIVED = {"early": MOVED, "before": MOVED, "edge": MOVED, "after": MOVED, "end": MOVED}
# The link is cut while GO may be in it: whoever has it, it is one of them.
CUT_AT_GO = {"go": "target:0,5 source:1,5", **DEAD_AT_READY}
KILLED = {"early": "source:killed", "before": "source:killed", "edge": "source:killed", "after": "target:killed",
          "end": "target:killed", "go": "target:killed source:killed"}
# The half-made guest dies with a receiver that is killed before it ran it: "gone".
KILLED_BEFORE_RUN = {"noted": "source:1,5", "go": "target:0,5 source:1,5", "run": "source:1,5 target:0,5"}

NO_JOB = {"connect": "the receiver has no migration yet", "end": "nothing is left to cancel"}
NOT_BEGUN = {"connect": "nothing is begun: who starts guests at boot starts it"}
OVER = {"end": "the source's half is over"}


def by_point(points, which):
    """{state: (sender's, receiver's)} of faults "POINT=ACTION" at one end."""
    return {state: (fault, None) if which == "source" else (None, fault) for state, fault in points.items()}


def point(name, what, which, points, ends_by, **more):
    return f.Point(name, what, ends_by, points=by_point(points, which), **more)


def failing_points():
    source = {s: f"source.{s}=fail:EIO" for s in ("prepared", "disks", "memory", "suspended", "final", "ready", "commit", "aside")}
    target = {s: f"target.{s}=fail:EIO" for s in ("prepare", "prepared", "memory", "final", "ready", "go")}
    return [
        point("fail-source", "the sender's own work fails", "source", source, {"edge": f.STAYS}),
        point("fail-target", "the receiver's work fails: volumes, building, completing, running", "target",
              dict(target, noted="target.go-noted=fail:EIO"),
              {"after": f.STAYS, "prepared": f.REFUSED}),
    ]


def killed_at_points():
    """Kills itself between two instructions, with nobody stopped before."""
    source = {s: f"source.{s}=kill" for s in ("prepared", "disks", "memory", "suspended", "final", "ready", "commit", "aside",
                                              "go", "running")}
    source["settled"] = "source.destroyed=kill"
    target = {s: f"target.{s}=kill" for s in ("prepare", "prepared", "memory", "final", "ready", "go", "run", "running")}
    target["noted"] = "target.go-noted=kill"
    return [
        f.SelfKill("die-source", "the sender dies of itself", KILLED, points=by_point(source, "source")),
        f.SelfKill("die-target", "the receiver dies of itself and comes back", dict(RESUMES, **KILLED_BEFORE_RUN),
                   points=by_point(target, "target"), who="far", reconnect_for="20s"),
    ]


def disk_errors():
    """In the bulk pass, and where the state of a later pass is known to the end that fails."""
    reads = {"disks": "disk.read@4=fail:EIO", "memory": "disk.read/source.memory=fail:EIO",
             "suspended": "disk.read/source.suspended=fail:EIO"}
    writes = {"disks": "disk.write@4", "memory": "disk.write/target.memory"}
    flushes = {"disks": "disk.flush@1", "memory": "disk.flush/target.memory", "final": "disk.flush/target.final"}
    # The guest may have written nothing that a later pass would read or write.
    late = {"memory": f"{f.STAYS} {MOVED}", "suspended": f"{f.STAYS} {MOVED}"}

    def each(points, action):
        return {state: f"{fault}{action}" for state, fault in points.items()}

    return [
        point("read-eio", "EIO on read of a source disk", "source", reads, late),
        point("write-eio", "EIO on write at the target", "target", each(writes, "=fail:EIO"), late),
        point("write-enospc", "ENOSPC on write at the target", "target", each(writes, "=fail:ENOSPC"), late),
        point("write-short", "a short write at the target", "target", each(writes, "=short"), late),
        point("flush-eio", "EIO on every flush at the target", "target",
              {"disks": "disk.flush@1+=fail:EIO", "memory": "disk.flush@1+/target.memory=fail:EIO"}, {}),
        point("flush-eio-once", "EIO on one flush at the target, which the kernel says only once", "target",
              each(flushes, "=fail:EIO"), {}),
    ]


def full_disks():
    return [
        f.FullDisk("sr-full", "the target's SR is really full (tmpfs)", {"disks": f.STAYS, "prepared": f.STAYS},
                   not_for={s: "what is written then has its space already" for s in
                            ("memory", "suspended", "final", "ready", "edge", "after", "end")} | {"connect": "refused by the check"}),
        f.FullDisk("source-journal-full", "the source's state folder is really full (tmpfs)",
                   {"early": f"{f.REFUSED} {MOVED}", "before": f"{f.STAYS} {MOVED}", "edge": "source:1,5 target:0,6", "after": "target:0,6 source:1", "end": "target:0,6"},
                   who="near", part="state"),
        f.FullDisk("target-journal-full", "the target's state folder is really full (tmpfs)",
                   {"early": "source:1,3,5", "before": "source:1,5", "edge": "source:1,5", "after": "target:0,5 source:1",
                    "end": "target:0,6"}, who="far", part="state"),
    ]


def ends_of_processes():
    return [
        f.KillSender("kill-sender", "kill -9 of the sender", KILLED),
        f.KillReceiver("kill-receiver", "kill -9 of the receiver, which comes back", dict(RESUMES, **KILLED_BEFORE_RUN),
                       reconnect_for="20s"),
        f.KillReceiver("kill-receiver-for-good", "kill -9 of the receiver, back only for recovery",
                       dict(KILLED_BEFORE_RUN, after="source:1,5 target:0,5", **DEAD_AT_READY), back=None),
        f.KillBoth("kill-both", "kill -9 of both", dict(KILLED, noted="source:killed target:killed", run="source:killed target:killed")),
        f.Power("power-both", "the power of both hosts is cut", dict(KILLED, noted="source:killed target:killed"), not_for=NOT_BEGUN),
        f.Power("power-source", "the source's power is cut", KILLED, which=("near",), not_for=NOT_BEGUN),
        f.Power("power-target", "the target's power is cut, it comes back", dict(RESUMES, **dict(KILLED_BEFORE_RUN, noted="target:0,5")),
                which=("far",), reconnect_for="20s"),
        f.Terminate("term-sender", "SIGTERM of the sender", {"early": "source:4", "before": "source:4", "edge": f"source:4 {MOVED}",
                                                            "after": MOVED}),
        f.TerminateReceiver("term-receiver", "SIGTERM of the receiver, which is started again",
                            {"early": f"{f.REFUSED}", "before": f"{f.STAYS} {MOVED}", "edge": EDGE, "after": "target:0,5",
                             "go": "target:0,5 source:1,5"}, reconnect_for="20s"),
        f.Stop("stop-sender", "SIGSTOP of the sender for 1 s", SURVIVED),
        f.Stop("stop-receiver", "SIGSTOP of the receiver for 1 s", SURVIVED, who="target"),
        f.Stop("stop-sender-long", "SIGSTOP of the sender until the peer gives it up",
               {"early": f"{f.REFUSED} {MOVED}", "before": MOVED, "edge": EDGE, **DEAD_AT_READY}, seconds=33.0, limit=60.0, slow=True,
               reconnect_for="60s", patience=30.0),
        f.Stop("stop-receiver-long", "SIGSTOP of the receiver until the peer gives it up",
               {"early": f"{f.REFUSED} {MOVED}", "before": MOVED, "edge": EDGE, "go": "target:0,5 source:1,5",
                **DEAD_AT_READY}, who="target", seconds=33.0, limit=60.0,
               slow=True, reconnect_for="60s", patience=30.0),
    ]


def links():
    return [
        f.Cut("cut", "link cut for good", dict(CUT_AT_GO, after="target:5")),
        f.Cut("cut-back", "link cut and back", dict(RESUMES, **CUT_AT_GO), back=0.4, reconnect_for="20s"),
        f.Stall("stall", "link stalled for good", dict(CUT_AT_GO, after="target:0,5"), slow=True, limit=90.0, patience=40.0),
        f.Stall("stall-back", "link stalled for 2 s", SURVIVED, seconds=2.0),
        f.Slow("slow", "a slow link (16 MiB/s, 10 ms)", SURVIVED, limit=40.0),
        f.Lossy("lossy", "3% of packets really lost", SURVIVED, limit=60.0, slow=True, needs_small=True),
        f.Corrupt("corrupt", "an octet flipped below TLS on the way up", dict(RESUMES, early=f"{f.REFUSED} {MOVED}", **CUT_AT_GO, **UP_AT_FINAL, **HELLO), reconnect_for="20s"),
        f.Corrupt("corrupt-down", "an octet flipped below TLS on the way down", dict(RESUMES, **CUT_AT_GO, **HELLO), direction="down",
                  reconnect_for="20s"),
        f.Corrupt("corrupt-all", "every piece damaged below TLS", dict(CUT_AT_GO, **UP_AT_FINAL, after="target:0,5"), pieces=1 << 30),
        f.HalfClose("half-close-up", "the way up is closed (FIN)", dict(RESUMES, early=f"{f.REFUSED} {MOVED}", **CUT_AT_GO, **UP_AT_FINAL), direction="up", reconnect_for="20s"),
        f.HalfClose("half-close-down", "the way down is closed (FIN)", dict(RESUMES, **CUT_AT_GO), direction="down",
                    reconnect_for="20s"),
    ]


def people():
    cancelled = {"early": "source:4", "before": "source:4", "edge": f"source:4 {MOVED}", "after": MOVED}
    return [
        f.Cancel("cancel-source", "cancelled at the source", cancelled),
        f.Cancel("cancel-target", "cancelled at the target", {"early": "source:1,3,4", "before": "source:1,4",
                                                              "edge": f"source:1,4 {MOVED}", "after": MOVED},
                 not_for=NO_JOB, where="far"),
    ]


def guests():
    gone = {"early": "ended:7,1,3", "before": "ended:7", "edge": "ended:7 target:0,6", "after": "target:0,6"}
    return [
        f.GuestEnds("guest-shutdown", "the guest shuts down", gone, not_for=OVER, slow=True, limit=40.0),
        f.GuestEnds("guest-killed", "the guest is killed", gone, not_for=OVER, signo=signal.SIGKILL),
        f.GuestDestroyed("guest-destroyed", "the guest is destroyed by command",
                         {"early": "ended:7,1,3", "before": f"ended:7 {MOVED}", "edge": MOVED, "after": MOVED}, not_for=OVER),
        f.NbdkitKilled("nbdkit-killed", "the server of a source disk is killed",
                       {"early": "source:1,3", "before": f"{f.STAYS} {MOVED}", "edge": f"{f.STAYS} {MOVED}", "after": MOVED}, not_for=OVER),
    ]


def damaged_journals():
    beside = dict(KILLED, noted="source:killed target:killed", run="source:killed target:killed")
    # What a damaged journal stood for, a person looks at: one guest runs, or its one half stands still.
    damaged = {"early": "source:killed", "before": "source:killed", "edge": "source:killed still:killed",
               "after": "target:killed source:killed still:killed", "end": "target:killed"}
    return [
        f.TornBeside("torn-beside", "killed while a journal is written: half of it lies beside the old one", beside),
        f.Torn("torn-source", "the source's journal is cut in half", damaged, who="near",
               not_for={"connect": "there is none yet"}),
        f.Torn("torn-target", "the target's journal is cut in half", damaged, who="far",
               not_for={"connect": "there is none yet"}),
        f.Torn("garbage-target", "the target's journal is garbage", damaged, who="far", how="garbage",
               not_for={"connect": "there is none yet"}),
    ]


def clocks():
    return [
        f.Clock("clock-forward", "the wall clock of both jumps an hour ahead", SURVIVED, seconds=3600),
        f.Clock("clock-back", "the wall clock of both jumps an hour back", SURVIVED, seconds=-3600),
    ]


FAULTS = (ends_of_processes() + killed_at_points() + links() + people() + guests() + failing_points() + disk_errors() +
          full_disks() + damaged_journals() + clocks())
BY_NAME = {fault.name: fault for fault in FAULTS}
