"""The child that sends: to mail and a webhook on loopback, without a word about their URLs."""

import asyncio
import email
import email.policy
import sys
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from hcam_devices.alarms import notify
from hcam_devices.alarms.notify import Outcome, check_by_child, send_by_child
from hcam_devices.alarms.send import CAUSES, REFUSED, UNCLEAR, cause_of
from hcam_devices.cli.main import main
from hcam_devices.config.instrument import load

from .sinks import body_of, mail, webhook

BODY = "ERR ccd1.flow: 0.1 l / min\nOpen the valve <at the chiller>."


async def test_a_webhook_gets_a_message_or_refuses_it() -> None:
    async with webhook() as sink:
        url = f"json://ada:secret@127.0.0.1:{sink.port}/token"
        assert await send_by_child(url, "Ours", BODY) == Outcome()
        assert body_of(sink.taken[0]) == f"Ours\n{BODY}"
        sink.answer = "refuse"
        assert await send_by_child(url, "Ours", BODY) == Outcome("HTTP status 500")
    assert await send_by_child(url, "Ours", BODY) == Outcome("the connection is refused")


async def test_mail_arrives_with_its_lines() -> None:
    async with mail() as sink:
        url = f"mailto://127.0.0.1:{sink.port}/?from=hcam@example.org&to=ada@example.org"
        assert await send_by_child(url, "Ours: Å", BODY) == Outcome()
        got = email.message_from_string(sink.taken[0], policy=email.policy.default)
        assert got["subject"] == "Ours: Å"
        assert got["to"] == "ada@example.org"
        part = got.get_body(("plain",))
        assert part is not None
        assert part.get_content().split() == BODY.split()
        assert "\n" in part.get_content().strip()


async def test_a_service_that_hangs_is_left_and_nobody_sees_the_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with webhook() as sink:
        sink.answer = "hang"
        url = f"json://ada:secret@127.0.0.1:{sink.port}/token"
        sending = asyncio.create_task(send_by_child(url, "Ours", BODY))
        await sink.is_asked()
        (child,) = psutil.Process().children()
        seen = " ".join([*child.cmdline(), *child.environ().values()])
        assert "hcam_devices.alarms.send" in seen
        assert "secret" not in seen
        child.kill()
        assert await sending == Outcome("the child failed", is_unclear=True)
    monkeypatch.setattr(notify, "MAX_SEND_S", 0.0)
    assert await send_by_child(url, "Ours", BODY) == Outcome(
        "it took more than 0 s", is_unclear=True
    )
    assert not psutil.Process().children()


async def test_a_url_is_checked_without_sending() -> None:
    async with webhook() as sink:
        assert await check_by_child(f"json://127.0.0.1:{sink.port}/token") == ""
        assert not sink.taken
    assert await check_by_child("jsson://host/token") == "apprise does not understand the URL"


async def test_without_apprise_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "apprise.py").write_text("raise ImportError\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert await send_by_child("json://host", "Ours", BODY) == Outcome(
        f"apprise is not installed: {sys.executable} -m pip install 'hcam_devices[notify]'"
    )


@pytest.mark.parametrize(
    ("logged", "words", "status"),
    [
        ("Failed to send JSON POST notification: Not found, error=404.", "HTTP status 404", 1),
        ("Socket Exception: (535, b'5.7.8 secret is wrong')", "SMTP status 535", 1),
        ("Socket Exception: [Errno 111] Connection refused", "the connection is refused", 1),
        ("[Errno -2] Name or service not known", "its host has no address", 1),
        ("[Errno 113] No route to host", "its host cannot be reached", 1),
        ("Read timed out. (read timeout=4.0)", "no answer in time", UNCLEAR),
        ("Loaded json://ada:secret@host", "the service did not take it", UNCLEAR),
    ],
)
def test_a_reason_is_in_our_words(logged: str, words: str, status: int) -> None:
    assert cause_of(["JSON POST URL: http://host/secret", logged]) == (words, status)
    assert {cause.status for cause in CAUSES} == {REFUSED, UNCLEAR}


def test_config_check_names_a_url_that_apprise_does_not_understand(tmp_path: Path) -> None:
    file = tmp_path / "ours.toml"
    file.write_text('[devices]\n[notify.ada]\nurls = [\n"json://host/ok",\n"jsson://secret"]\n')
    done = CliRunner().invoke(main, ["config", "check", "--instrument", str(file)])
    assert done.exit_code == 1
    assert f"{file}:3: [notify.ada] urls: number 2 of 2: apprise does not und" in done.output
    assert "secret" not in done.output


async def test_the_table_of_the_documents_can_be_used(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "alarms.md").read_text()
    _, _, rest = page.partition("```toml file=notify.toml\n")
    file = tmp_path / "ours.toml"
    file.write_text(f"[devices]\n{rest.partition('```')[0]}")
    instrument = load(file)
    assert instrument.heartbeat == "https://watcher.example.org/ping/7f3a"
    assert {name: one.after for name, one in instrument.notify.items()} == {
        "observer": None,
        "support": 900,
    }
    for url in instrument.notify["observer"].urls:
        assert await check_by_child(url) == ""
