"""Completion and help in IPython, with jedi and without: all names, and no call."""

from types import SimpleNamespace
from typing import Any

import pytest

from hcam_devices.client import Instrument
from hcam_devices.client.devices import class_of

from ..helpers import ENTRIES
from .test_devices import Network, description_of, sample_of


def instrument() -> tuple[Instrument, Network]:
    """Return the whole instrument, and the network of its slide."""
    networks = {name: Network(sample_of(name)) for name in ENTRIES}
    objects = {name: class_of(description_of(name))(name, networks[name]) for name in ENTRIES}
    core: Any = SimpleNamespace(objects=objects, telemetry=SimpleNamespace(devices=ENTRIES))
    core.device = objects.__getitem__
    return Instrument(core, background=None), networks["slide"]  # type: ignore[arg-type]


@pytest.mark.parametrize("jedi", [True, False])
@pytest.mark.parametrize(
    ("typed", "offers"),
    [
        ("instrument.", {"ccd1", "slide", "gtc", "subscribe"}),
        ("instrument.slide.", {"position", "target_position", "move", "block", "stage", "set"}),
        ("instrument.slide.stage.", {"move", "home", "enable"}),
        ("instrument.slide.position.", {"value", "unit", "time"}),
        ('instrument["sl', {"slide"}),
        ('instrument.ngc["exposure.t', {"exposure.time"}),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ipython_completes_without_a_call(jedi: bool, typed: str, offers: set[str]) -> None:
    from IPython.core.completer import (  # noqa: PLC0415  (70 ms in each worker)
        IPCompleter,
        provisionalcompleter,
    )

    found, network = instrument()
    complete: Any = IPCompleter
    completer = complete(namespace={"instrument": found}, use_jedi=jedi)
    with provisionalcompleter():
        names = {each.text.lstrip(".") for each in completer.completions(typed, len(typed))}
    assert offers <= names
    assert network.calls == []
