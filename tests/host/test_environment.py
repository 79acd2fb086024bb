"""A program behaves the same in every locale, from every editor, without an entry in passwd."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import hcam_devices
from hcam_devices import HcamError
from hcam_devices.config.instrument import InstrumentError, carried, load
from hcam_devices.config.stores import Embedded, place
from hcam_devices.core import capture
from hcam_devices.host.home import home
from hcam_devices.wamp.uris import Address

MARK = b"\xef\xbb\xbf"
SOURCES = sorted(Path(hcam_devices.__file__).parent.rglob("*.py"))


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "ours.toml"
    file.write_bytes(MARK + carried("hipercam").read_bytes())
    assert load(file).names == load().names
    wire = tmp_path / "wire.jsonl"
    wire.write_bytes(MARK + b'{"direction": ">", "hex": "01"}\n')
    assert capture.read(wire) == [(">", b"\x01")]


@pytest.mark.parametrize(
    ("encode", "line"),
    [
        (lambda text: text.encode("latin-1"), 2),
        (lambda text: text.encode("utf-16"), 1),
    ],
)
def test_a_file_that_is_not_utf_8_is_told_with_its_line(
    tmp_path: Path, encode: Callable[[str], bytes], line: int
) -> None:
    file = tmp_path / "ours.toml"
    file.write_bytes(encode("[devices]\n# 20 °C\n"))
    with pytest.raises(InstrumentError, match=f":{line}: not UTF-8: save the file as"):
        load(file)


def test_files_are_utf_8_in_a_locale_that_has_ascii_only(tmp_path: Path) -> None:
    file = tmp_path / "ours.toml"
    file.write_text("# 20 °C\n" + carried("hipercam").read_text("utf-8"), "utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [Path(sys.executable).parent / "hcam", "config", "check", "--instrument", file],
        env=os.environ | ascii_only,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no mistakes" in done.stdout


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_no_file_is_read_or_written_in_the_encoding_of_the_locale(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        given = {word.arg for word in node.keywords}
        texts = [one.value for one in node.args if isinstance(one, ast.Constant)]
        mode = str(next(iter(texts), "r"))
        reads = name in ("read_text", "write_text") or (
            name == "open" and isinstance(node.func, ast.Attribute) and texts and "b" not in mode
        )
        reads = reads and ast.unparse(node.func) != "os.open"  # which accepts bytes only
        assert not reads or "encoding" in given, f"line {node.lineno}: {ast.unparse(node)}"
        runs = ast.unparse(node.func).startswith("subprocess.")
        assert not (runs and "text" in given), f"line {node.lineno}: name the encoding"


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a user without HOME and without an entry in passwd."""
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)

    def unknown(_: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.setattr("pwd.getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_is_asked_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HcamError, match="no home directory: set HCAM_HOME"):
        home()
    with pytest.raises(HcamError, match="folder '~/history': there is no such home directory"):
        place(Embedded(folder="~/history"), tmp_path)
    monkeypatch.setenv("HCAM_HOME", str(tmp_path))
    assert home() == tmp_path


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("ws://192.0.2.1:8080/ws", "192.0.2.1", 8080),
        ("ws://192.0.2.1:9000", "192.0.2.1", 9000),
        ("ws://router/ws", "router", 8080),
        ("wss://router:8443/ws", "router", 8443),
        ("ws://[::1]:9000/ws/", "::1", 9000),
        (" router ", "router", 8080),
    ],
)
def test_the_router_may_be_named_as_its_clients_in_use_write_it(
    text: str, host: str, port: int
) -> None:
    assert Address.parse(text) == Address(host, port)


@pytest.mark.parametrize("text", ["wss://router:8080/wamp", "ws://router:8080/wamp", "ws://"])
def test_another_url_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(HcamError, match=r"is not a host or host:port .* or ws://host:port/ws"):
        Address.parse(text)
