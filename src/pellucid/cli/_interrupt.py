"""Ctrl-C, so that it is never lost.

Python raises KeyboardInterrupt in whatever code runs at that moment. Where this is a finalizer or a callback
from C, the exception is printed and gone, and a long job would go on.
"""

import signal
import sys
from types import FrameType

_interrupted = False


def remember_interrupts() -> None:
    """`stop_if_interrupted` knows of every Ctrl-C from now on; where it is ignored, it stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _remember)
        sys.unraisablehook = _print_unless_interrupt


def stop_if_interrupted() -> None:
    """Call between two pieces of work.

    Raises:
        KeyboardInterrupt: Ctrl-C came before.
    """
    if _interrupted:
        raise KeyboardInterrupt


def _remember(_number: int, _frame: FrameType | None) -> None:
    global _interrupted
    _interrupted = True
    raise KeyboardInterrupt


def _print_unless_interrupt(unraisable: "sys.UnraisableHookArgs") -> None:
    if unraisable.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(unraisable)
