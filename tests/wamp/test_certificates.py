"""The CA of a site, and the certificate of its router: made, renewed, and believed."""

import shutil
import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from hcam_devices.wamp import access, certificates
from hcam_devices.wamp.access import AccessError, Key

NAMES = {"192.0.2.1", "router.example", "rackpc"}
NOW = datetime(2026, 11, 30, tzinfo=UTC)
FILES = "ca.key", "ca.pem", "router.key", "router.pem"


def contents(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in FILES}


def changed(before: dict[str, str], folder: Path) -> set[str]:
    after = contents(folder)
    return {name for name in FILES if before[name] != after[name]}


def made(folder: Path, now: datetime = NOW) -> x509.Certificate:
    """Return the router's certificate."""
    certificates.make_missing(folder, NAMES, now)
    return certificates.read(folder / "router.pem")


def test_they_are_made_once_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    ca = certificates.make_missing(tmp_path, NAMES, NOW)
    assert ca == (tmp_path / "ca.pem").read_text()
    for name in FILES:
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    before = contents(tmp_path)
    assert certificates.make_missing(tmp_path, NAMES, NOW) == ca
    assert not changed(before, tmp_path)


def test_what_they_say(tmp_path: Path) -> None:
    router = made(tmp_path)
    ca = certificates.read(tmp_path / "ca.pem")
    assert ca.not_valid_after_utc - NOW == timedelta(days=3650)
    assert router.not_valid_after_utc - NOW == timedelta(days=825)
    basic = ca.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (basic.ca, basic.path_length) == (True, 0)
    assert not router.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificates.names_of(router) == NAMES
    assert certificates.is_signed_by(router, ca)
    assert not certificates.is_signed_by(router, router)


@pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl command")
@pytest.mark.parametrize("name", ["router.example", "192.0.2.1"])
def test_openssl_believes_them_as_strictly_as_it_can(tmp_path: Path, name: str) -> None:
    made(tmp_path, datetime.now(UTC))
    option = "-verify_ip" if name[0].isdigit() else "-verify_hostname"
    for given, status in ((name, 0), (f"{name}9", 2)):
        command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", option, given]
        command += ["-CAfile", str(tmp_path / "ca.pem"), str(tmp_path / "router.pem")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == status, done.stderr


def test_the_routers_is_renewed_before_it_ends(tmp_path: Path) -> None:
    first = made(tmp_path)
    before = contents(tmp_path)
    made(tmp_path, NOW + timedelta(days=549))
    assert not changed(before, tmp_path)
    second = made(tmp_path, NOW + timedelta(days=551))
    assert changed(before, tmp_path) == {"router.key", "router.pem"}
    assert second.not_valid_after_utc > first.not_valid_after_utc


def test_a_renewed_ca_is_trusted_by_those_who_have_the_old_one(tmp_path: Path) -> None:
    made(tmp_path)
    old = certificates.read(tmp_path / "ca.pem")
    before = contents(tmp_path)
    router = made(tmp_path, NOW + timedelta(days=2551))
    assert changed(before, tmp_path) == {"ca.pem", "router.key", "router.pem"}
    assert certificates.is_signed_by(router, old)
    assert router.not_valid_after_utc <= old.not_valid_after_utc


def test_another_name_or_a_lost_file_needs_another_certificate(tmp_path: Path) -> None:
    made(tmp_path)
    before = contents(tmp_path)
    certificates.make_missing(tmp_path, {*NAMES, "192.0.2.9"}, NOW)
    assert changed(before, tmp_path) == {"router.key", "router.pem"}
    (tmp_path / "router.key").unlink()
    made(tmp_path)
    assert (tmp_path / "router.key").exists()
    (tmp_path / "ca.pem").unlink()
    made(tmp_path)
    assert certificates.is_signed_by(
        certificates.read(tmp_path / "router.pem"), certificates.read(tmp_path / "ca.pem")
    )


def test_a_lost_or_damaged_key_of_the_ca_is_not_replaced_unasked(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "ca.key").write_text("nonsense")
    with pytest.raises(AccessError, match=r"ca\.key is not a usable private key"):
        made(tmp_path)
    (tmp_path / "ca.key").unlink()
    with pytest.raises(AccessError, match="restore it from a backup, or remove"):
        made(tmp_path)
    (tmp_path / "ca.pem").write_text("nonsense")
    with pytest.raises(AccessError, match=r"ca\.pem is not a usable certificate"):
        made(tmp_path)


def test_a_key_file_has_the_ca_and_trusts_nothing_else(tmp_path: Path) -> None:
    ca = certificates.make_missing(tmp_path, NAMES)
    key = Key.new("ada", "operator", "router.example:8443", ca)
    access.write_secret(tmp_path / "ada.key", key.as_text())
    assert access.read_key(tmp_path / "ada.key") == key
    context = access.context_of(ca)
    assert context
    [trusted] = context.get_ca_certs()
    assert "hcam CA" in str(trusted["subject"])
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    # curl --cacert and verify= of requests find the CA in the key file
    assert len(ssl.create_default_context(cafile=tmp_path / "ada.key").get_ca_certs()) == 1


def test_a_key_file_with_a_damaged_ca_is_refused(tmp_path: Path) -> None:
    text = Key.new("ada", "operator", "router.example:8443", "-----BEGIN NONSENSE\n").as_text()
    access.write_secret(tmp_path / "ada.key", text)
    with pytest.raises(AccessError, match=r"is not a key file: ca is not a certificate"):
        access.read_key(tmp_path / "ada.key")


def test_keys_of_this_machine_follow_the_router(tmp_path: Path) -> None:
    """And those of others are theirs."""
    access.make_missing(tmp_path, {"local": "engineer"}, "127.0.0.1:8080")
    before = access.read_key(tmp_path / "keys" / "local.key")
    ca = certificates.make_missing(tmp_path, NAMES)
    for address, known in (("192.0.2.1:8443", ca), ("192.0.2.9:8443", ca), ("127.0.0.1:1", "")):
        access.make_missing(tmp_path, {"local": "engineer"}, address, known)
        key = access.read_key(tmp_path / "keys" / "local.key")
        assert (key.router, key.ca, key.key) == (address, known, before.key)
    assert access.people(tmp_path)["local"].keys == (before.public,)
