"""What every command has: help, exit statuses, an example, JSON, times in UTC, completion."""

import re
from collections.abc import Iterator
from importlib import import_module
from time import tzset

import click
import pytest
from click.shell_completion import CompletionItem
from click.testing import CliRunner

from hcam_devices.cli import servers
from hcam_devices.cli.history import OTHERS
from hcam_devices.cli.main import SECTIONS, main
from hcam_devices.cli.program import Command, Group, say
from hcam_devices.ui import times

SILENT = {
    "up": "runs until Ctrl-C, and draws",
    "router": "runs until Ctrl-C",
    "router config": "prints JSON always",
    "router install": "prints progress",
    "watch": "draws; monitor and status have --json",
    "replay": "draws progress",
    "publish": "prints nothing",
    "access remove": "prints nothing",
}
TIMES = {"monitor", "history", "status", "watch", "wire", "alarms"}
TIMES |= {
    f"alarms {name}"
    for name in ("shelve", "log", "report", "handover", "watch", "messages", "test")
}
"""The commands that print times to people."""
COMPLETED = {
    "get": ("patterns", "fields"),
    "monitor": ("patterns", "fields"),
    "history": ("fields", "fields"),
    "history export": ("fields", "fields"),
    "set": ("setpoint", "setpoints"),
    "publish": ("topic", "setpoints"),
    "call": ("procedure", "procedures"),
    "simulate": ("device", "devices"),
    "wire": ("device", "devices"),
    "watch": ("pattern", "devices"),
    "audit": ("night", "nights"),
    "replay": ("night", "nights"),
    "history close": ("night", "nights"),
    "alarms report": ("night", "nights"),
}
"""The argument of a command that a shell completes, and with what."""
WORDS = {argument for argument, _ in COMPLETED.values()} - {"pattern"}


def commands(group: Group = main, prefix: str = "") -> Iterator[tuple[str, Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert isinstance(command, Command)
        if isinstance(command, Group):
            yield from commands(command, f"{prefix}{name} ")
        if not isinstance(command, Group) or command.invoke_without_command:
            yield f"{prefix}{name}", command
    if not prefix:
        for name, module in OTHERS.items():
            yield f"history {name}", getattr(import_module(f"hcam_devices.cli.{module}"), name)


EVERY = dict(commands())
PROGRAMS = {name: getattr(servers, name) for name in ("hwserver", "hserver", "gtcserver")}
PROGRAMS |= {"hwlogger": servers.hwlogger, "hwalarm": servers.hwalarm}


@pytest.mark.parametrize("name", [*EVERY, *PROGRAMS])
def test_h_prints_help_with_exit_statuses_and_an_example(name: str) -> None:
    done = (
        CliRunner().invoke(PROGRAMS[name], ["-h"])
        if name in PROGRAMS
        else CliRunner().invoke(main, [*name.split(), "-h"])
    )
    assert done.exit_code == 0
    full = name if name in PROGRAMS else f"hcam {name}"
    assert f"Example: {full}" in " ".join(done.output.split())
    for status in (0, 1, 2, 130):
        assert re.search(
            rf"^  {status} +\S", done.output.partition("Exit status:")[2], re.MULTILINE
        )


def test_the_help_lists_every_command_by_purpose() -> None:
    said = CliRunner().invoke(main, ["-h"]).output
    for title, listed in SECTIONS.items():
        part = said.partition(f"{title}:\n")[2].partition("\n\n")[0]
        assert [line.split()[0] for line in part.splitlines() if line[2] != " "] == list(listed)


def test_every_command_has_json_unless_there_is_nothing_to_print() -> None:
    assert {name for name, command in EVERY.items() if command.silent} == {*SILENT}
    assert all(command.silent for command in PROGRAMS.values())


def test_the_commands_that_print_times_have_utc() -> None:
    found = {
        name
        for name, command in EVERY.items()
        if any("--utc" in one.opts for one in command.get_params(click.Context(command)))
    }
    assert found == TIMES


@pytest.mark.parametrize("name", EVERY)
def test_names_are_completed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"slide": {kind: [kind] for kind in ("fields", "setpoints", "procedures")}}
    monkeypatch.setattr("hcam_devices.cli.completion._known", lambda *_: known)
    command = EVERY[name]
    context = click.Context(command)
    wanted, kind = COMPLETED.get(name, ("", ""))
    offers = {"devices": "slide", "nights": "tonight"}.get(kind, f"slide.{kind}")
    for argument in command.params:
        items: list[CompletionItem] = (
            argument.shell_complete(context, "") if isinstance(argument, click.Argument) else []
        )
        if argument.name == wanted:
            assert offers in [item.value for item in items]
        else:
            assert argument.name not in WORDS or not isinstance(argument, click.Argument)


def test_json_has_null_for_what_is_no_number() -> None:
    @click.command(cls=Command)
    def found() -> None:
        say({"a": [1.5, float("nan")], "b": (float("inf"), "°C")}, "for people")

    assert CliRunner().invoke(found, []).output == "for people\n"
    said = CliRunner().invoke(found, ["--json"]).output
    assert " ".join(said.split()) == '{ "a": [ 1.5, null ], "b": [ null, "°C" ] }'


def test_times_are_in_utc_or_in_the_zone_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Atlantic/Canary")
    tzset()
    summer, ms = "2026-07-22T23:44:44.196Z", 1784763884196
    try:
        assert (times.text(summer), times.zone(summer)) == ("2026-07-22 23:44:44", "UTC")
        assert times.exact(summer) == summer
        times.use(local=True)
        assert times.text(ms) == times.text(summer) == "2026-07-23 00:44:44"
        assert times.exact(summer) == "2026-07-23T00:44:44.196+01:00"
        assert (times.zone(ms), times.offset_ms(ms)) == ("WEST", 3_600_000)
    finally:
        times.use(local=False)
        monkeypatch.undo()
        tzset()


def test_the_version_names_the_commit() -> None:
    done = CliRunner().invoke(main, ["--version"])
    assert re.fullmatch(
        r"hcam_devices \d+\.\d+\.\d+( \(git [0-9a-f]{12}(-dirty)?\))?\n", done.output
    )
