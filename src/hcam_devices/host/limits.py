"""What a program may use of its machine."""

import resource

MAX_OPEN_FILES = 65_536
"""Above this, programs that close every file they could have open need seconds to start."""


def raise_open_files_limit() -> int:
    """Raise the limit of open files of this process and its children; return the new limit.

    Debian's soft limit is 1024, and a device needs several. The hard limit is usually far higher.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft if soft != resource.RLIM_INFINITY else MAX_OPEN_FILES
