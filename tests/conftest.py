"""Fixtures of every test: the two tiers of numbers, and isolation from this machine's settings.

``./check`` runs every test with small numbers; ``./check --soak`` with those of a long night.
"""

import gc
import logging
from collections.abc import Generator
from pathlib import Path
from typing import Protocol

import hypothesis
import pytest
import txaio
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

logging.getLogger("asyncio").setLevel(logging.WARNING)
# Before a test imports autobahn's serializers, which would not find it later.
txaio.use_asyncio()  # type: ignore[no-untyped-call]
# No test depends on the speed of the machine.
for tier, examples in (("check", 20), ("soak", 100)):
    hypothesis.settings.register_profile(tier, deadline=None, max_examples=examples)

TOGETHER = (
    ("network/test_interlocks.py",),
    ("network/test_client_outages.py",),
    ("devices/test_faults.py",),
    ("network/test_alarms.py",),
    ("packaging/test_wheel.py",),
    (
        "network/test_cli.py",
        "network/test_replay.py",
        "network/test_agent.py",
        "network/test_router_config.py",
        "network/test_doctor.py",
        "network/test_panel.py",
    ),
    (
        "network/test_client.py",
        "network/test_values.py",
        "network/test_bluesky.py",
        "network/test_tools_page.py",
        "network/test_events.py",
        "network/test_bad_input.py",
        "network/test_utils.py",
    ),
    (
        "network/test_hserver.py",
        "network/test_gtcserver.py",
        "network/test_dither.py",
        "network/test_second_server.py",
        "network/test_connection_cuts.py",
        "network/test_tls.py",
    ),
    ("network/test_hdriver.py",),
    ("network/test_night.py",),
    ("network/test_original.py",),
    ("network/test_going_over.py",),
    ("network/test_original_guis.py",),
    ("network/test_one_environment.py",),
    ("network/test_up.py", "network/test_running_a_site.py"),
    (
        "network/test_recorder_killed.py",
        "network/test_recorder.py",
        "network/test_renamed.py",
        "network/test_history.py",
    ),
    ("network/test_recorder_outages.py", "network/test_audit.py"),
    ("network/test_router_outages.py",),
    ("network/test_panel_truth.py", "network/test_panel_stand_ins.py"),
    ("network/test_access.py",),
    ("network/test_notify.py",),
    ("tests/test_docs.py",),
    ("history/test_archive.py",),
    ("devices/test_gtc.py",),
    ("stores/test_lines.py",),
    ("telescope/test_corba.py",),
    ("stores/test_embedded.py",),
    ("network/test_namespaces.py",),
    ("journal/test_journal.py",),
    ("network/test_keys.py",),
    ("network/test_router_abuse.py",),
    ("network/test_door_people.py",),
    ("network/test_commands.py",),
    ("network/test_forged.py",),
)
"""Files for one worker, which share a router. What takes longest comes first, so that no worker is
left alone with it at the end."""
GROUP = {file: f"group {number}" for number, files in enumerate(TOGETHER) for file in files}


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Give a worker whole groups of files, and otherwise whole files.

    pytest-xdist's own groups put their name into the test's, which pytest 9.2 does not heed.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return GROUP.get(within_folder(Path(file)), file)


def within_folder(path: Path) -> str:
    """Return a file's name with that of its folder."""
    return "/".join(path.parts[-2:])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Distribute tests by groups of files."""
    return Scheduling(config, log)


class Scaled(Protocol):
    """Return how often a test repeats, or how much it takes: the second number in a soak."""

    def __call__(self, number: int, *, soak: int) -> int: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--soak``."""
    parser.addoption(
        "--soak",
        action="store_true",
        help="use the numbers of a long night (kills, outages, backlogs), and every variant",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose how many examples a test of properties has, unless it says so itself."""
    hypothesis.settings.load_profile("soak" if config.getoption("--soak") else "check")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Spare the garbage collector the modules and tests, which stay until the end.

    It would go through all of them again and again.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest; leave out the variants that only a soak runs.

    Tests of the network come together, since their routers end with them.
    """
    order = {name: place for place, name in enumerate(GROUP)}

    def place(item: pytest.Item) -> tuple[int, bool]:
        name = within_folder(item.path)
        return order.get(name, len(order)), not name.startswith("network/")

    items.sort(key=place)
    if config.getoption("--soak"):
        return
    left_out = [item for item in items if item.get_closest_marker("soak")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("soak")]


@pytest.fixture(scope="session")
def scaled(pytestconfig: pytest.Config) -> Scaled:
    """Return a function that chooses the number of this tier: ``scaled(15, soak=200)``."""
    soaking = bool(pytestconfig.getoption("--soak"))

    def choose(number: int, *, soak: int) -> int:
        return soak if soaking else number

    return choose


@pytest.fixture(autouse=True)
def _nothing_of_the_site(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Forget where this machine's own router, home, keys and instrument are."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "nobody"))
    for name in ("WAMP_SERVER", "HCAM_HOME", "HCAM_KEY", "HCAM_INSTRUMENT"):
        monkeypatch.delenv(name, raising=False)
