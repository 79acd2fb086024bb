"""For every test."""

import logging

import pytest

logging.getLogger("asyncio").setLevel(logging.WARNING)


@pytest.fixture(autouse=True)
def _nothing_of_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget where this machine's own router, home and instrument are."""
    for name in ("WAMP_SERVER", "HCAM_HOME", "HCAM_INSTRUMENT"):
        monkeypatch.delenv(name, raising=False)
