"""The router dies, in every way it can; the server goes on, comes back, and nothing is missing."""

import json
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest

from hcam_devices.wamp.router import listening
from hcam_devices.wamp.utils import NoSuchProcedureError, OutcomeUnknownError, RouterError, call

from .conftest import DEVICES
from .tools import Net, living, until

QUICK = [name for name in DEVICES if name != "rackpc"]  # which is read every ten seconds


def routers(net: Net) -> list[psutil.Process]:
    """Return the processes of the router: ours, Crossbar's controller and its worker."""
    return [p for p in living(net.home) if net.server is None or p.pid != net.server.pid]


def crossbar(net: Net, what: str) -> psutil.Process:
    [found] = [p for p in routers(net) if f"crossbar-{what}" in " ".join(p.cmdline())]
    return found


def gone(net: Net) -> None:
    """Wait until the router has ended, whoever had to see to it."""
    assert net.router
    until(lambda: not routers(net))
    net.router.wait()
    until(lambda: not listening(net.port))


def controller_killed(net: Net) -> None:
    crossbar(net, "controller").kill()
    gone(net)


def worker_killed(net: Net) -> None:
    crossbar(net, "worker").kill()
    gone(net)


def all_killed(net: Net) -> None:
    for process in routers(net):
        with suppress(psutil.NoSuchProcess):  # it ends with its parent
            process.kill()
    gone(net)


def stopped(net: Net) -> None:
    assert net.router
    net.router.send_signal(signal.SIGTERM)
    gone(net)
    assert net.router.returncode == 0


def only_ours_killed(net: Net) -> None:
    assert net.router
    net.router.kill()
    gone(net)


def restarted_twice(net: Net) -> None:
    all_killed(net)
    net.start_router()
    all_killed(net)


def frozen(net: Net) -> None:
    """Stop it in its tracks until the server has noticed, and given up every connection."""
    assert net.server
    server = psutil.Process(net.server.pid)

    def connections() -> set[int]:
        return {c.laddr.port for c in server.net_connections() if c.raddr[1:] == (net.port,)}

    before = connections()
    try:
        for process in routers(net):
            with suppress(psutil.NoSuchProcess):  # a program that the server asked
                process.suspend()
        until(lambda: not before & connections())
    finally:
        for process in routers(net):
            with suppress(psutil.NoSuchProcess):
                process.resume()


def test_a_server_started_before_the_router_finds_it_by_itself(own: Net) -> None:
    own.start_server()
    until(lambda: all(own.last(name) > 1 for name in QUICK))
    with pytest.raises(RouterError):
        call("hipercam.slide.rpc.describe")
    own.start_router()
    own.wait_for_devices(*DEVICES)
    assert call("hipercam.slide.rpc.samples", 0, 1)[0]["seq"] == 1


@pytest.mark.parametrize(
    "outage",
    [
        all_killed,
        frozen,
        *(
            pytest.param(outage, marks=pytest.mark.soak)
            for outage in (
                controller_killed,
                worker_killed,
                stopped,
                only_ours_killed,
                restarted_twice,
            )
        ),
    ],
)
def test_no_sample_is_missing_after_an_outage_of_the_router(
    own: Net, outage: Callable[[Net], None]
) -> None:
    everything_up(own)
    assert own.server
    before = {name: own.last(name) for name in DEVICES}
    epoch = call("hipercam.slide.rpc.samples")[0]["epoch"]
    outage(own)
    during = {name: own.last(name) for name in QUICK}
    if outage is not frozen:
        until(lambda: all(own.last(name) > during[name] for name in QUICK))
        own.start_router()
    until(lambda: all(answers(name) for name in DEVICES))
    until(lambda: all(own.last(name) > during[name] for name in QUICK))
    assert own.server.poll() is None
    for name in DEVICES:
        samples = call(f"hipercam.{name}.rpc.samples", before[name])
        numbers = [sample["seq"] for sample in samples]
        assert numbers == list(range(before[name] + 1, before[name] + 1 + len(numbers)))
        assert before[name] + len(numbers) >= during.get(name, 0)
        assert {sample["epoch"] for sample in samples} <= {epoch}
        assert {sample["state"]["connection"] for sample in samples} <= {"online"}


def answers(name: str) -> bool:
    try:
        return bool(call(f"hipercam.{name}.rpc.describe")["device"] == name)
    except (NoSuchProcedureError, OutcomeUnknownError):  # or sent to a dead session
        return False


def everything_up(net: Net) -> None:
    """Start what an earlier test, if it failed, has left down."""
    if net.server is None:
        net.start_server()
    if not listening(net.port):
        net.start_router()
    net.wait_for_devices(*DEVICES)


def test_a_router_does_not_begin_beside_another(own: Net) -> None:
    everything_up(own)
    said = own.hcam("router", "--port", str(own.port), code=1)
    assert f"port {own.port} is in use" in said
    assert answers("slide")


def test_a_router_starts_although_its_predecessor_is_a_zombie(own: Net) -> None:
    everything_up(own)
    all_killed(own)
    with subprocess.Popen(["true"]) as zombie:
        until(lambda: psutil.Process(zombie.pid).status() == psutil.STATUS_ZOMBIE)
        file = own.home / "router" / str(own.port) / "node.pid"
        file.write_text(json.dumps({"pid": zombie.pid}))
        own.start_router()
    own.wait_for_devices(*DEVICES)
