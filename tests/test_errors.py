"""Each error has one name on the network, and comes back as what it was."""

import os
import subprocess
import sys

import pytest

from hcam_devices.errors import (
    InvalidArgumentError,
    NoSuchProcedureError,
    OfflineError,
    OutcomeUnknownError,
    ProtocolError,
    WampError,
    from_uri,
    uri_of,
)

CLASSES: list[type[WampError]] = [WampError, *WampError.__subclasses__()]


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_goes_out_and_comes_back_as_itself(cls: type[WampError]) -> None:
    error = from_uri(uri_of(cls("why")), "why")
    assert type(error) is cls
    assert (error.uri, error.text, str(error)) == (cls.uri, "why", "why")
    assert str(cls()) == cls.uri


def test_no_two_classes_share_a_name() -> None:
    assert len({one.uri for one in CLASSES}) == len(CLASSES) >= 9


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError(), InvalidArgumentError),
        (ConnectionError(), OfflineError),
        (TimeoutError(), OfflineError),
        (ProtocolError(), OfflineError),
        (ZeroDivisionError(), WampError),
    ],
)
def test_other_errors_go_out_as_what_they_mean(error: Exception, expected: type[WampError]) -> None:
    assert uri_of(error) == expected.uri


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("wamp.error.no_such_procedure", NoSuchProcedureError),
        ("wamp.error.canceled", OutcomeUnknownError),
        ("wamp.close.transport_lost", OutcomeUnknownError),
        ("wamp.error.invalid_uri", WampError),
    ],
)
def test_the_router_has_words_of_its_own(uri: str, expected: type[WampError]) -> None:
    error = from_uri(uri, "why")
    assert type(error) is expected
    assert error.uri == uri


@pytest.mark.parametrize(
    "program",
    [
        "import hcam_devices.wamp.utils",
        "from hcam_devices.cli.main import main; main(['call', 'x'], standalone_mode=False)",
        "from hcam_devices.cli.main import main; main(['get', 'x'], standalone_mode=False)",
    ],
)
def test_what_calls_imports_little(program: str) -> None:
    slow = "{'asyncio', 'autobahn', 'logging', 'pydantic', 'ssl', 'hcam_devices.core'}"
    begin = f"import atexit, sys; atexit.register(lambda: print({slow} & {{*sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{begin}; {program}"],
        env={"WAMP_SERVER": "127.0.0.1:1", "HCAM_HOME": os.devnull},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    assert done.stdout == "set()\n"
