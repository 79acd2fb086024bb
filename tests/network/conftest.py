"""What tests of a worker share: a router and servers, unless they kill them, and environments."""

import os
import re
import shutil
from collections.abc import Generator, Iterator
from importlib.metadata import files, requires
from pathlib import Path
from sysconfig import get_path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hcam_devices.config.instrument import load
from hcam_devices.host import installation
from hcam_devices.host.installation import STAMP, uv

from .gui import ORIGINAL, need_original
from .recorded import LOADS
from .tools import ROUTER_PYTHON, Net

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.lock"

DEVICES = [entry.name for entry in load().choose("hwserver")]
OTHERS = [entry.name for entry in load().entries.values() if entry.name not in DEVICES]
"""Those of the other servers."""
FAILED = pytest.StashKey[bool]()
GUESTS = {
    "hwserver-flood": LOADS,
    "hwserver-shared": ["shared1"],
    "hwserver-other": ["other1"],
    "hwserver-two": ["both1=Both1", "both2"],
    "hwserver-cut": ["cut1"],
}
"""The devices of the modules that use a router which they have not started."""


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """The router and the servers of this worker, until it goes on to other tests."""
    net = Net(tmp_path_factory.mktemp("shared"))
    try:
        net.start_servers()
        net.start_recorder()
        net.start_alarms()
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
        shared.wait_for_devices(*DEVICES, *OTHERS, "recorder", "alarms")
        shared.known = shared.registrations()
    return shared


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note for its fixtures that a test has failed."""
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.fixture
def own(
    request: pytest.FixtureRequest,
    own_nets: list[Net],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Net]:
    """A network of the module's own, to be broken; after a test that failed, another one."""
    if not own_nets:
        own_nets.append(Net(tmp_path_factory.mktemp("own")))
    [net] = own_nets
    monkeypatch.setenv("WAMP_SERVER", str(net.address))
    monkeypatch.setenv("HCAM_HOME", str(net.home))
    yield net
    if request.node.stash[FAILED]:
        net.end()
        own_nets.clear()


@pytest.fixture
def as_left(own: Net) -> Net:
    """The network of the module's own as the test before has left it, unless that has failed."""
    if own.router is None:
        pytest.skip("the test before has failed, or was not run")
    return own


@pytest.fixture(scope="module")
def own_nets() -> Iterator[list[Net]]:
    """The network of the module's own, once there is one: nothing is started."""
    nets: list[Net] = []
    yield nets
    for net in nets:
        net.end()


@pytest.fixture(scope="package")
def bare_router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """A router of this worker, for the modules that bring all else and leave it alone.

    It ends as ``shared`` does.
    """
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


def _linked(source: Path, target: Path) -> None:
    """Copy a folder without copying its files, if the two are on one disk."""

    def link(one: str, other: str) -> None:
        try:
            os.link(one, other)
        except OSError:
            shutil.copy2(one, other)

    shutil.copytree(source, target, symlinks=True, copy_function=link)


def _needed(name: str, extra: str = "") -> set[str]:
    """Return the names of all packages that an installed package needs."""
    found: set[str] = set()
    for need in map(Requirement, requires(name) or ()):
        wanted = need.marker is None or need.marker.evaluate({"extra": extra})
        if wanted and need.name not in found:
            found |= {need.name}.union(*(_needed(need.name, one) for one in {"", *need.extras}))
    return found


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the environment of the GUI after our wheel was installed there, and what it needs.

    The latter comes from uv's cache, where ``./setup`` has put it.
    """
    need_original()
    folder = tmp_path_factory.mktemp("one")
    environment = folder / "venv"
    _linked(ORIGINAL.parent.resolve(), environment)
    locked = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", LOCK.read_text(), re.MULTILINE))
    here = {*map(canonicalize_name, _needed("hcam_devices", "gtc"))} - {"astropy", "numpy", "uv"}
    pins = [f"{name}=={locked[name]}" for name in here]
    assert uv("build", "--offline", "--quiet", "--wheel", "--out-dir", str(folder), str(ROOT)) == 0
    [wheel] = folder.glob("*.whl")
    python = ("--python", str(environment / "bin" / "python"))
    # Without --no-deps, uv asks for what only the network has.
    install = ("pip", "install", "--offline", "--quiet", "--no-deps")
    assert uv(*install, *python, *pins, str(wheel)) == 0
    packages = get_path("purelib", vars={"base": str(environment)})
    for file in files("uv") or ():  # pip has installed it here, so it is not in its own cache
        (target := Path(packages, file)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file.locate(), target)
    assert uv("pip", "check", "--quiet", *python) == 0
    # The router has an environment of its own, the same for each.
    router = ROUTER_PYTHON.parents[1]
    _linked(router, environment / "router")
    stamp = environment / "router" / STAMP
    stamp.unlink()
    stamp.write_text(installation._stamp(environment / "router"))
    return environment
