"""Children that never outlive their parent, even one killed with -9 (Linux)."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def end_with(parent: int, with_signal: int = signal.SIGTERM) -> None:
    """Ask the kernel to signal this process when `parent` ends; end at once if it has ended already."""
    _libc.prctl(_PR_SET_PDEATHSIG, with_signal)
    if os.getppid() != parent:
        sys.exit("the parent has ended")


def as_plain_user() -> bool:
    """Be a user other than root, in a user namespace of our own, with the same rights on files. False if not allowed.

    PostgreSQL refuses to run as root. What root owns is still ours in here: only the number that `geteuid` gives changes.
    """
    uid, gid = os.geteuid(), os.getegid()
    if _libc.unshare(0x10000000):  # CLONE_NEWUSER
        return False
    try:
        _write("/proc/self/uid_map", f"1000 {uid} 1")
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/gid_map", f"1000 {gid} 1")
    except OSError:
        return False
    return os.geteuid() != 0


def _write(path: str, content: str) -> None:
    handle = os.open(path, os.O_WRONLY)
    try:
        os.write(handle, content.encode())
    finally:
        os.close(handle)
