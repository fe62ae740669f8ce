"""Threads that give way, as the kernel itself reports their slices."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import subprocess
import sys
import threading

import pytest

from qzd_ext.scheduling import LONGEST_SLICE_NS, giving_way

GETATTR = {"x86_64": 315, "aarch64": 275}
SCHED_ATTR = struct.Struct("=IIQiIQQQ")


def slice_ns() -> int:
    """Of the calling thread."""
    buffer = ctypes.create_string_buffer(SCHED_ATTR.size)
    assert ctypes.CDLL(None).syscall(GETATTR[platform.machine()], 0, buffer, SCHED_ATTR.size, 0) == 0
    return int(SCHED_ATTR.unpack(buffer)[5])


def slice_of_a_new_thread() -> int:
    found = []
    thread = threading.Thread(target=lambda: found.append(slice_ns()))
    thread.start()
    thread.join()
    return found[0]


@pytest.fixture
def usual() -> int:
    """Also that the kernel has slices at all."""
    if platform.machine() not in GETATTR or slice_ns() == 0:
        pytest.skip("this kernel has no slices of single threads: Linux 6.12 does")
    return slice_ns()


def test_threads_started_in_it_have_the_longest_slice_and_others_their_own(usual: int) -> None:
    with giving_way():
        inside = slice_of_a_new_thread()
    assert (inside, slice_ns(), slice_of_a_new_thread()) == (LONGEST_SLICE_NS, usual, usual)


def test_an_error_inside_leaves_the_usual_slice(usual: int) -> None:
    with pytest.raises(KeyError), giving_way():
        raise KeyError
    assert slice_ns() == usual


def test_niceness_stays_as_it_was(usual: int) -> None:
    found = []

    def nice() -> None:
        os.setpriority(os.PRIO_PROCESS, 0, 7)
        with giving_way():
            found.append((slice_ns(), os.getpriority(os.PRIO_PROCESS, 0)))
        found.append((slice_ns(), os.getpriority(os.PRIO_PROCESS, 0)))

    thread = threading.Thread(target=nice)
    thread.start()
    thread.join()
    assert found == [(LONGEST_SLICE_NS, 7), (usual, 7)]


def test_a_thread_of_another_policy_keeps_it(usual: int) -> None:
    found = []

    def batch() -> None:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        with giving_way():
            found.append((os.sched_getscheduler(0), slice_ns()))

    thread = threading.Thread(target=batch)
    thread.start()
    thread.join()
    assert found == [(os.SCHED_BATCH, usual)]


FORBID = """
import ctypes, struct
load, equal, answer = 0x20, 0x15, 0x06  # of seccomp's BPF: the number of the call, is it this, return
rules = [(load, 0, 0, 0), (equal, 0, 1, {number}), (answer, 0, 0, 0x00050001), (answer, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
libc = ctypes.CDLL(None, use_errno=True)
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(rules), ctypes.addressof(code)))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):
    raise SystemExit(77)
from qzd_ext.scheduling import giving_way
with giving_way():
    pass
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86-64")
@pytest.mark.parametrize("number", [140, 145, 314], ids=["getpriority", "getscheduler", "setattr"])
def test_a_container_that_forbids_a_call_is_no_error(number: int) -> None:
    command = [sys.executable, "-c", FORBID.format(number=number)]
    ran = subprocess.run(command, capture_output=True, check=False)
    if ran.returncode == 77:
        pytest.skip("this kernel has no seccomp filters")
    assert (ran.returncode, ran.stderr) == (0, b"")
