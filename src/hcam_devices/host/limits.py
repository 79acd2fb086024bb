"""How many files a program may have open."""

import errno
import resource

MAX_OPEN_FILES = 65_536
"""With a higher limit, child processes that close every possible file need seconds to start."""
NO_MORE_FILES = errno.EMFILE, errno.ENFILE
"""The error numbers of a process, and of a machine, that can open no more files."""


def raise_open_files_limit() -> int:
    """Raise the limit of open files of this process and its children, and return the new limit.

    Debian's soft limit of 1024 is too low for a server of many devices. The hard limit, which is
    not exceeded, is usually far higher.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft if soft != resource.RLIM_INFINITY else MAX_OPEN_FILES
