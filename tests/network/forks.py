"""Starts a recorder for each line it reads, forked when all is imported: so most instants count.

It says the recorder's process id, and ``over`` when that has ended.
"""

import os
import sys

from hcam_devices.cli.servers import hwlogger


def main() -> None:
    """Fork until there are no more lines."""
    for _ in sys.stdin:
        if (process := os.fork()) == 0:
            os.dup2(2, 1)
            hwlogger([])
        print(process, flush=True)
        os.waitpid(process, 0)
        print("over", flush=True)


if __name__ == "__main__":
    main()
