"""Claims on bytes of a file that end with their descriptor, however its program ends: OFD locks (Linux, `fcntl(2)`)."""

from __future__ import annotations

import fcntl
import os
import struct
import sys

_SETLK = getattr(fcntl, "F_OFD_SETLK", None)
_GETLK = getattr(fcntl, "F_OFD_GETLK", None)
CAN_ASK = _GETLK is not None and sys.platform == "linux"
"""True if it can be asked whether others use a file."""


def claim(fd: int, kind: int, span: tuple[int, int]) -> bool:
    """Lock a span (first byte, length; 0: to the end) by `F_RDLCK`, or give it back by `F_UNLCK`; False if not done."""
    if _SETLK is None or not CAN_ASK:
        return False
    try:
        fcntl.fcntl(fd, _SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, *span, 0))
    except OSError:  # a database that is just being made, or a file system without such locks
        return False
    return True


def is_claimed(fd: int, span: tuple[int, int]) -> bool:
    """True if another descriptor, here or elsewhere, has a claim on a byte of the span."""
    if _GETLK is None or not CAN_ASK:
        return False
    asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, *span, 0)
    try:
        found = fcntl.fcntl(fd, _GETLK, asked)
    except OSError:  # a file system without such locks
        return False
    return bool(struct.unpack_from("h", found)[0] != fcntl.F_UNLCK)
