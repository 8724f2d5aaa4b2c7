"""The command line: `pellucid ...` and `python -m pellucid ...`."""

import errno
import io
import os
import sys

from pellucid.cli import create_app
from pellucid.cli._interrupt import remember_interrupts
from pellucid.cli._shared import say
from pellucid.errors import PellucidError

# Errors of the system that a pellucid without faults meets too; others show Python's own traceback.
_SURROUNDINGS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO),
    *(errno.ENAMETOOLONG, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
}


def main() -> None:
    """Run a command; an error of pellucid becomes one sentence on stderr and its exit code."""
    # By default OpenMP's threads spin while they wait for each other. Where another program wants the same
    # cores, pictures then take up to ten times as long; asleep, waiting costs some microseconds per step.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch asks for pages of 2 MB (decision record 10)
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names need not be text in the terminal's encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    remember_interrupts()
    try:
        create_app()(prog_name="pellucid")
    except PellucidError as error:
        say(f"pellucid: {error}")
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in _SURROUNDINGS:
            raise
        where = "The output" if error.filename is None else os.fsdecode(error.filename)
        say(f"pellucid: {where} can't be used: {error.strerror}. Check name, permissions and free space.")
        if error.errno == errno.ENOSPC and error.filename is None:
            # What is still in stdout's buffer would fail again, with a traceback, while Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
