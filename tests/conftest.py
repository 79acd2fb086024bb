"""For every test: the two tiers, and nothing of this machine's own settings.

``./check`` runs every test with small numbers; ``./check --soak`` with those of a long night.
"""

import logging
from typing import Protocol

import pytest

logging.getLogger("asyncio").setLevel(logging.WARNING)


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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the variants that only a soak runs."""
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
def _nothing_of_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget where this machine's own router, home and instrument are."""
    for name in ("WAMP_SERVER", "HCAM_HOME", "HCAM_INSTRUMENT"):
        monkeypatch.delenv(name, raising=False)
