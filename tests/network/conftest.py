"""One router and one server for every test of a worker that does not kill them."""

from collections.abc import Iterator

import pytest

from hcam_devices.config.instrument import load

from .recorded import LOADS
from .tools import Net

DEVICES = [entry.name for entry in load().choose("hwserver")]
OTHERS = [entry.name for entry in load().entries.values() if entry.name not in DEVICES]
"""Those of the other servers."""
GUESTS = {
    "hwserver-flood": LOADS,
    "hwserver-shared": ["shared1"],
    "hwserver-other": ["other1"],
    "hwserver-two": ["both1=Both1", "both2"],
    "hwserver-cut": ["cut1"],
}
"""The devices of the modules that use a router which they have not started."""


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """The router and the server of this worker."""
    net = Net(tmp_path_factory.mktemp("shared"))
    try:
        net.start_servers()
        net.start_recorder()
        net.start_router()
        yield net
    finally:
        net.end()


@pytest.fixture
def net(shared: Net, monkeypatch: pytest.MonkeyPatch) -> Net:
    """The network of this worker, with every device online; ``call`` and ``publish`` find it."""
    monkeypatch.setenv("WAMP_SERVER", str(shared.address))
    monkeypatch.setenv("HCAM_HOME", str(shared.home))
    if shared.server is None or shared.server.poll() is not None:
        shared.start_server()
    # After a test that changed nothing, the next one need not ask every device.
    if shared.registrations() != shared.known or not shared.online_on_disk():
        shared.wait_for_devices(*DEVICES, *OTHERS, "recorder")
        shared.known = shared.registrations()
    return shared


@pytest.fixture
def own(net_of_module: Net, monkeypatch: pytest.MonkeyPatch) -> Net:
    """A network of the module's own, to be broken."""
    monkeypatch.setenv("WAMP_SERVER", str(net_of_module.address))
    monkeypatch.setenv("HCAM_HOME", str(net_of_module.home))
    return net_of_module


@pytest.fixture(scope="module")
def net_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """A network of the module's own: nothing is started."""
    net = Net(tmp_path_factory.mktemp("own"))
    try:
        yield net
    finally:
        net.end()


@pytest.fixture(scope="session")
def bare_router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """A router of this worker, for the modules that bring all else and leave it alone."""
    net = Net(tmp_path_factory.mktemp("router"))
    try:
        net.start_router("--instrument", net.instrument_with(GUESTS))
        yield net
    finally:
        net.end()


@pytest.fixture(scope="module")
def guest_of_module(bare_router: Net, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """A home of the module's own, whose programs use a router that outlives them."""
    net = Net(tmp_path_factory.mktemp("guest"))
    net.share_access(bare_router)
    try:
        yield net
    finally:
        net.end()


@pytest.fixture
def guest(guest_of_module: Net, monkeypatch: pytest.MonkeyPatch) -> Net:
    """A home of the module's own; ``call`` and ``publish`` find its router."""
    monkeypatch.setenv("WAMP_SERVER", str(guest_of_module.address))
    monkeypatch.setenv("HCAM_HOME", str(guest_of_module.home))
    return guest_of_module
