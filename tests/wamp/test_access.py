"""Key files, and the list of people."""

import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hcam_devices.wamp import access, uris
from hcam_devices.wamp.access import AccessError, Key, own_key, people, read_key

ROUTER = "127.0.0.1:8080"
PROGRAMS = {"local": "engineer", "hwserver": "device-hwserver"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HCAM_HOME", str(tmp_path))
    return access.folder()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_missing_is_made_and_only_its_owner_can_read_it(folder: Path) -> None:
    access.make_missing(folder, PROGRAMS, ROUTER)
    assert mode(folder) == mode(folder / "keys") == 0o700
    files = [folder / "people.json", *(folder / "keys").iterdir()]
    assert {file.name for file in files} == {"people.json", "local.key", "hwserver.key"}
    assert {mode(file) for file in files} == {0o600}
    key = own_key("hwserver")
    assert key
    assert (key.name, key.role, key.router) == ("hwserver", "device-hwserver", ROUTER)
    one = json.loads((folder / "people.json").read_text())["hwserver"]
    assert one == {"role": "device-hwserver", "keys": [key.public], "token": key.token_hash}
    for secret in (key.key, key.token):
        assert secret not in (folder / "people.json").read_text()


def test_what_is_there_is_kept(folder: Path) -> None:
    access.make_missing(folder, PROGRAMS, ROUTER)
    before = {file.name: file.read_text() for file in folder.rglob("*") if file.is_file()}
    access.make_missing(folder, PROGRAMS, ROUTER)
    assert before == {file.name: file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_the_router_keeps_its_name_at_another_port(folder: Path) -> None:
    assert access.name_of_router(folder, "127.0.0.1:9999") == "127.0.0.1:9999"
    access.make_missing(folder, PROGRAMS, ROUTER)
    before = people(folder)
    access.make_missing(folder, PROGRAMS, "127.0.0.1:9999")
    assert access.name_of_router(folder, "127.0.0.1:9999") == ROUTER
    assert people(folder) == before


def test_a_lost_key_is_made_anew_beside_the_one_that_may_be_elsewhere(folder: Path) -> None:
    access.make_missing(folder, PROGRAMS, ROUTER)
    [before] = people(folder)["hwserver"].keys
    (folder / "keys" / "hwserver.key").unlink()
    access.make_missing(folder, PROGRAMS, ROUTER)
    key = own_key("hwserver")
    assert key
    assert people(folder)["hwserver"].keys == (before, key.public)


def test_a_lost_list_is_made_from_the_keys(folder: Path) -> None:
    access.make_missing(folder, PROGRAMS, ROUTER)
    before = people(folder)
    (folder / "people.json").unlink()
    access.make_missing(folder, PROGRAMS, ROUTER)
    assert people(folder) == before


def test_a_signature_can_be_verified_with_the_public_key() -> None:
    key = Key.new("ada", "observer", ROUTER)
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.public)).verify(key.sign(b"x"), b"x")


def test_a_key_file_says_everything(folder: Path) -> None:
    path = access.add(folder, "ada", "operator", ROUTER)
    key = read_key(path)
    assert key.name == "ada"
    assert "ca =" not in path.read_text()
    assert people(folder)["ada"].keys == (key.public,)


def test_a_key_file_elsewhere(folder: Path, tmp_path: Path) -> None:
    path = access.add(folder, "ada", "operator", ROUTER, tmp_path / "ada.key")
    assert path == tmp_path / "ada.key"
    assert mode(path) == 0o600
    with pytest.raises(AccessError, match="exists already"):
        access.add(folder, "bob", "operator", ROUTER, path)
    assert set(people(folder)) == {"ada"}


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o610, 0o666])
def test_a_key_file_that_others_can_read_is_refused(folder: Path, bits: int) -> None:
    path = access.add(folder, "local", "engineer", ROUTER)
    path.chmod(bits)
    with pytest.raises(AccessError, match=f"chmod 600 {path}"):
        own_key()


@pytest.mark.parametrize(
    "text", ["", "name = 1", "nonsense", 'name="a"\nrole="b"\nrouter="c"\nkey="d"\ntoken="e"']
)
def test_what_is_no_key_file_is_refused(folder: Path, tmp_path: Path, text: str) -> None:
    access.write_secret(tmp_path / "x.key", text)
    with pytest.raises(AccessError, match="is not a key file"):
        read_key(tmp_path / "x.key")


def test_which_key_is_whose(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_key() is None
    access.make_missing(folder, PROGRAMS, ROUTER)
    local, server = own_key(), own_key("hwserver")
    assert local
    assert server
    assert (local.name, server.name) == ("local", "hwserver")
    assert own_key("hserver") is None
    path = access.add(folder, "ada", "operator", "192.0.2.1:8443")
    monkeypatch.setenv("HCAM_KEY", str(path))
    for program in ("local", "hwserver", "hserver"):
        key = own_key(program)
        assert key
        assert key.name == "ada"
    assert str(uris.address()) == "192.0.2.1:8443"
    monkeypatch.setenv("WAMP_SERVER", "192.0.2.2")
    assert str(uris.address()) == "192.0.2.2:8080"
    monkeypatch.setenv("HCAM_KEY", str(path) + "x")
    with pytest.raises(AccessError, match="cannot be read"):
        own_key()


def test_a_name_is_given_once(folder: Path) -> None:
    access.add(folder, "ada", "operator", ROUTER)
    before = people(folder)
    with pytest.raises(AccessError, match="already there, with the role operator"):
        access.add(folder, "ada", "operator", ROUTER)
    with pytest.raises(AccessError, match="already there"):
        access.add_public(folder, "ada", "engineer", "0" * 64)
    assert people(folder) == before


@pytest.mark.parametrize("name", ["", "anonymous", ".", "../x", "a/b", "a b", "x" * 65, "é"])
def test_a_name_that_is_none_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(AccessError, match="is not a name"):
        access.add(folder, name, "observer", ROUTER)
    assert people(folder) == {}


def test_a_public_key_from_elsewhere(folder: Path) -> None:
    one, other = (Key.new("ada", "observer", ROUTER).public for _ in range(2))
    access.add_public(folder, "ada", "observer", one.upper())
    access.add_public(folder, "ada", "observer", other)
    access.add_public(folder, "ada", "observer", other)
    assert people(folder)["ada"] == access.Person("observer", (one, other), None)
    with pytest.raises(AccessError, match="64 hexadecimal digits"):
        access.add_public(folder, "bob", "observer", other[1:])


def test_who_is_removed_leaves_no_key(folder: Path) -> None:
    path = access.add(folder, "ada", "operator", ROUTER)
    access.remove(folder, "ada")
    assert people(folder) == {}
    assert not path.exists()
    with pytest.raises(AccessError, match="there is no 'ada'; there are none"):
        access.remove(folder, "ada")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"ada": {}}', '{"ada": []}'])
def test_a_damaged_list_is_named_and_left_alone(folder: Path, text: str) -> None:
    access.make_missing(folder, {}, ROUTER)
    access.write_secret(folder / "people.json", text)
    with pytest.raises(AccessError, match=r"people\.json is damaged"):
        access.add(folder, "bob", "observer", ROUTER)
    assert (folder / "people.json").read_text() == text
