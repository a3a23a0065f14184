# SPDX-License-Identifier: LGPL-2.1-or-later
"""The states of a migration, in order of time, and how a run is held in each.

`holder` is who stops there: the source or the target at a fault point (XMOTION_FAULT=POINT=stop in a build with fault points),
or the link, which takes the sender's connection and carries nothing."""


class State:
    def __init__(self, name, group, holder, point=None, suspended=False):
        self.name, self.group, self.holder = name, group, holder
        self.passing = point
        self.point = f"{point}=stop" if point else None
        self.suspended = suspended

    def fault_point(self):
        """The point's name without its passing."""
        return self.passing.split("@")[0] if self.passing else None


# Groups: early: nothing is made at the target yet; before: before COMMIT; edge: COMMIT is noted, GO is not sent;
# after: GO was sent; end: the guest is known to run at the target.
STATES = [
    State("connect", "early", "link"),
    State("prepare", "early", "target", "target.prepare"),
    State("prepared", "before", "source", "source.prepared"),
    State("disks", "before", "source", "disk.read@4"),
    State("memory", "before", "source", "source.memory"),
    State("suspended", "before", "source", "source.suspended", True),
    State("final", "before", "target", "target.final", True),
    State("ready", "before", "source", "source.ready", True),
    State("commit", "edge", "source", "source.commit", True),
    State("aside", "edge", "source", "source.aside", True),
    State("go", "after", "source", "source.go", True),
    State("noted", "after", "target", "target.go-noted", True),
    State("run", "after", "target", "target.run", True),
    State("running", "end", "source", "source.running"),
    State("settled", "end", "source", "source.destroyed"),
]

BY_NAME = {state.name: state for state in STATES}
