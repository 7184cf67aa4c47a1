"""Asking the kernel which bytes of a file are in memory."""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Final

_CACHESTAT: Final = 451
"""The number of the system call, the same on all architectures."""


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("size", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("cached", "dirty", "written_back", "evicted", "recently_evicted")
    )


def _find_system_call() -> ctypes._NamedFuncPointer | None:  # pyright: ignore[reportPrivateUsage]  ctypes names its type so
    return getattr(ctypes.CDLL(None), "syscall", None) if sys.platform == "linux" else None


_system_call: Final = _find_system_call()


def is_cached(descriptor: int, offset: int, size: int) -> bool:
    """Whether each page of that part of a file is in the page cache; False where the kernel cannot tell.

    A page that is just being read counts: whoever needs it waits for a read that has begun.

    Source: Linux 6.5, cachestat(2). Its C library's function is too new to be there.
    """
    if _system_call is None or size <= 0:
        return False
    counts = _Counts()
    wanted = _Range(offset, size)
    if _system_call(_CACHESTAT, descriptor, ctypes.byref(wanted), ctypes.byref(counts), 0) != 0:
        return False
    pages = (offset + size - 1) // mmap.PAGESIZE - offset // mmap.PAGESIZE + 1
    return counts.cached >= pages
