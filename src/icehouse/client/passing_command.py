"""A command that runs in our place: it gets our streams and the signals that are sent to us."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

_PASSED: Final = frozenset(
    {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT}
)
_ENDING: Final = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM})
_FROM_THE_KERNEL: Final = 0x80
"""``SI_KERNEL``: the terminal sent it, and to the command too, which is in our process group."""
_CHANGED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)
_NOT_FOUND: Final = 127
_NOT_RUNNABLE: Final = 126
_BY_SIGNAL: Final = 128


class PassingCommand:
    """A command that was started. From then on this process takes signals for it alone."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it.

        Raises:
            OSError: it cannot be started.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED)
        try:
            self._process = os.posix_spawnp(
                command[0], list(command), environment, setsigmask=before, setsigdef=_CHANGED_BY_PYTHON
            )
        except BaseException:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            raise
        self._has_ended = False
        self._lock = threading.Lock()

    async def wait(self, ended_twice: Callable[[], object]) -> int:
        """The exit code once it ends: its own, or 128 and the number of the signal that ended it.

        *ended_twice* is called when a signal that is to end us comes after that.
        """
        loop = asyncio.get_running_loop()
        passing = threading.Thread(target=self._pass_signals, args=(loop, ended_twice), daemon=True)
        passing.start()
        descriptor = os.pidfd_open(self._process)
        ended = asyncio.Event()
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        return self._reap()

    def _reap(self) -> int:
        with self._lock:  # its number may be another process's from here on
            _, status = os.waitpid(self._process, 0)
            self._has_ended = True
        code = os.waitstatus_to_exitcode(status)
        return _BY_SIGNAL - code if code < 0 else code

    def _pass_signals(self, loop: asyncio.AbstractEventLoop, ended_twice: Callable[[], object]) -> None:
        while True:
            info = signal.sigwaitinfo(_PASSED)
            with self._lock:
                if not self._has_ended:
                    if info.si_code != _FROM_THE_KERNEL:
                        os.kill(self._process, info.si_signo)
                    continue
            if info.si_signo in _ENDING and not loop.is_closed():
                loop.call_soon_threadsafe(ended_twice)


def exit_code_for(error: OSError) -> int:
    """The exit code that shells give to a command that cannot be started."""
    return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_RUNNABLE
