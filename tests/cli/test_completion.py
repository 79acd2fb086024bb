"""What a shell offers for the beginning of a name."""

import json
import os
from pathlib import Path

import pytest

from hcam_devices.cli import completion
from hcam_devices.cli.completion import KEEP_S, Names, offered
from hcam_devices.errors import RouterError
from hcam_devices.wamp.uris import Address

KNOWN: Names = {
    "compo": {"fields": ["state"], "setpoints": [], "procedures": ["reset"]},
    "compo_arms": {"fields": ["angle"], "setpoints": ["target"], "procedures": ["reset"]},
    "ngc": {"fields": ["exposure.time", "run"], "setpoints": [], "procedures": ["start", "stop"]},
    "gtc": {"fields": [], "setpoints": [], "procedures": []},
}
HERE = Address()


@pytest.mark.parametrize(
    ("kind", "begun", "offers"),
    [
        ("fields", "", ["compo.", "compo_arms.", "ngc."]),
        ("fields", "comp", ["compo.", "compo_arms."]),
        ("fields", "compo.", ["compo.state"]),
        ("fields", "n", ["ngc.exposure.time", "ngc.run"]),
        ("fields", "ngc.exposure.", ["ngc.exposure.time"]),
        ("setpoints", "comp", ["compo_arms.target"]),
        ("procedures", "ngc.st", ["ngc.start", "ngc.stop"]),
        ("fields", "g", []),
        ("fields", "nothing.", []),
    ],
)
def test_a_device_is_never_offered_alone(kind: str, begun: str, offers: list[str]) -> None:
    assert list(offered(KNOWN, kind, begun)) == offers


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "hcam_devices" / "names-127.0.0.1-8080.json"


def test_the_router_is_asked_when_the_cache_is_old(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def ask() -> Names:
        asked.append(1)
        return KNOWN

    monkeypatch.setattr(completion, "_asked", ask)
    assert completion._known(HERE, 0) == KNOWN
    assert json.loads(cache.read_text()) == KNOWN
    made = cache.stat().st_mtime
    assert completion._known(HERE, made + KEEP_S - 1) == KNOWN
    assert len(asked) == 1
    completion._known(HERE, made + KEEP_S)
    assert len(asked) == 2
    assert os.listdir(cache.parent) == [cache.name]


def test_an_old_cache_is_better_than_no_router(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Names:
        raise RouterError("there is none")

    monkeypatch.setattr(completion, "_asked", fail)
    assert completion._known(HERE, 0) == {}
    cache.parent.mkdir()
    cache.write_text("{")
    assert completion._known(HERE, 0) == {}
    cache.write_text(json.dumps(KNOWN))
    assert completion._known(HERE, 2 * KEEP_S + cache.stat().st_mtime) == KNOWN


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b'["slide"]',
        b'{"slide": null}',
        b'{"slide": {"fields": []}}',
        b'{"slide": {"fields": null, "setpoints": [], "procedures": []}}',
        b'{"slide": {"fields": [1], "setpoints": [], "procedures": []}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_cache_is_made_again(
    damaged: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "_asked", lambda: KNOWN)
    cache.parent.mkdir()
    cache.write_bytes(damaged)
    now = cache.stat().st_mtime
    assert completion._known(HERE, now) == KNOWN
    assert json.loads(cache.read_text()) == KNOWN
