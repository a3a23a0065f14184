# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real loss of packets in this network namespace: a classic BPF filter on the loopback interface drops some at random. (The
kernel of this project's machines has no sch_netem; cls_bpf does the same for loss.)"""

import shutil
import subprocess

DROP, PASS = 2, 4294967295  # TC_ACT_SHOT, TC_ACT_UNSPEC
RANDOM = 4294963256  # SKF_AD_OFF + SKF_AD_RANDOM


def tc(*words):
    return subprocess.run(["tc", *words], capture_output=True, text=True, check=False)


def possible():
    """Tried for real, with no loss at all. In a network namespace of our own only."""
    if not shutil.which("tc"):
        return False
    try:
        begin(0)
    except OSError:
        return False
    end()
    return True


def begin(percent):
    """Raises OSError when this machine cannot."""
    code = f"5,32 0 0 {RANDOM},148 0 0 100,53 1 0 {percent},6 0 0 {DROP},6 0 0 {PASS}"
    tc("qdisc", "add", "dev", "lo", "clsact")
    done = tc("filter", "add", "dev", "lo", "ingress", "bpf", "da", "bytecode", code)
    if done.returncode:
        raise OSError(f"tc: {done.stderr.strip()}")


def end():
    tc("qdisc", "del", "dev", "lo", "clsact")
