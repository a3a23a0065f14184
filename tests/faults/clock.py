# SPDX-License-Identifier: LGPL-2.1-or-later
"""The wall clock of chosen processes jumps (clock-shim.c): the machine's own is left alone, others use it."""

import os
import subprocess

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "clock-shim.c")


def preload(folder):
    """Environment of a process whose clock follows jump()."""
    shim = f"{folder}/clock-shim.so"
    if not os.path.exists(shim):
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", shim, SOURCE, "-ldl"], check=True)
    return {"LD_PRELOAD": shim, "XMOTION_CLOCK": f"{folder}/clock",
            "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"}


def jump(folder, seconds):
    with open(f"{folder}/clock.new", "w", encoding="ascii") as file:
        file.write(str(seconds))
    os.rename(f"{folder}/clock.new", f"{folder}/clock")
