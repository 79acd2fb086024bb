"""Times `call()` against one bare keep-alive POST of the same call, block by block in turn.

Runs in ours and in the original's environment, whose `call` has the same name and place. Where
there is a key, both are signed.
"""

import http.client
import json
import sys
import time
from collections.abc import Callable
from functools import partial

from hcam_devices.wamp import utils

BLOCKS, CALLS = 100, 5  # blocks, and calls of each way in one


def main() -> None:
    """Print the seconds of both as one line of JSON."""
    host, port, procedure, arguments = sys.argv[1:]
    args, where = json.loads(arguments), f"{host}:{port}"
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    body = json.dumps({"procedure": procedure, "args": args}).encode()
    signature: Callable[..., dict[str, str]] = lambda *_: {}  # noqa: E731  (the original has none)
    if hasattr(utils, "_signature"):
        signature = partial(utils._signature, utils._key())

    def post() -> None:
        headers = {"Content-Type": "application/json"} | signature(where, "/call", body)
        connection.request("POST", "/call", body, headers)
        answer = json.loads(connection.getresponse().read())
        if "error" in answer:
            raise RuntimeError(f"the bridge answered {answer}")

    call = partial(utils.call, procedure, *args)
    ways: dict[str, Callable[[], object]] = {"post": post, "call": call}
    took: dict[str, list[float]] = {way: [] for way in ways}
    for block in range(BLOCKS + 1):  # the first round warms up
        for way, function in ways.items():
            for _ in range(CALLS):
                start = time.perf_counter()
                function()
                if block:
                    took[way].append(time.perf_counter() - start)
    print(json.dumps(took))


if __name__ == "__main__":
    main()
