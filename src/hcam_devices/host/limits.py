"""The limit of open files."""

import errno
import resource

MAX_OPEN_FILES = 65_536
"""With a higher limit, child processes that close every possible file need seconds to start."""
NO_MORE_FILES = errno.EMFILE, errno.ENFILE
"""Error numbers: this process, or the whole machine, cannot open more files."""


def raise_open_files_limit() -> int:
    """Raise the soft limit of open files for this process and its children, and return it.

    Debian's soft limit of 1024 is too low for a server of many devices. The hard limit is usually
    far higher.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft if soft != resource.RLIM_INFINITY else MAX_OPEN_FILES
