"""Access to the router: the list of people and programs that may join, and their key files.

The router reads ``HCAM_HOME/access/people.json`` whenever somebody joins, so a change takes effect
at once. It has public keys and hashes of tokens only. A key file has secrets: only its owner may
read it. Programs of this machine find theirs in ``HCAM_HOME/access/keys``.
"""

import fcntl
import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import HcamError
from ..host.home import home, writable_or_explain, write_whole

if TYPE_CHECKING:  # 9 ms, which hcam call does not need without TLS
    import ssl

LOCAL = "local"
"""The name of the key of ``hcam`` and of scripts on the machine of the router."""
ANONYMOUS = "anonymous"
"""The reserved name of all clients that join without a key."""
PEOPLE = "people.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}", re.ASCII)
HEX_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
OTHERS = stat.S_IRWXG | stat.S_IRWXO
NAME_IT = "add that name to names under [router] of the instrument file, and start the router again"
CURES = {
    9: "set the clock of this machine right",
    10: "start the router again, which renews it",
    62: NAME_IT,
    64: NAME_IT,
}
"""What to do about OpenSSL's errors X509_V_ERR_CERT_NOT_YET_VALID, CERT_HAS_EXPIRED,
HOSTNAME_MISMATCH and IP_ADDRESS_MISMATCH."""


class AccessError(HcamError):
    """A key file or the list of people is unusable; the text tells what to do."""


class Key(NamedTuple):
    """The content of a key file.

    ``router`` is host:port, ``key`` an Ed25519 seed in hexadecimal, ``token`` the secret for HTTP,
    ``ca`` the CA certificate (PEM) that a router's TLS is checked with; empty without TLS.
    """

    name: str
    role: str
    router: str
    key: str
    token: str
    ca: str = ""

    @classmethod
    def new(cls, name: str, role: str, router: str, ca: str = "") -> "Key":
        """Return a key with new secrets."""
        return cls(name, role, router, os.urandom(32).hex(), os.urandom(32).hex(), ca)

    @property
    def public(self) -> str:
        """The public key, in hexadecimal."""
        return str(self._private().public_key().public_bytes_raw().hex())

    @property
    def token_hash(self) -> str:
        """The SHA-256 of the token, in hexadecimal."""
        return sha256(self.token.encode()).hexdigest()

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature of a message."""
        return bytes(self._private().sign(message))

    def _private(self) -> Any:
        # Not above, because hcam call signs nothing with it: 20 ms.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
            Ed25519PrivateKey,
        )

        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(self.key))

    def as_text(self) -> str:
        """Return the key as TOML. OpenSSL, such as ``curl --cacert``, finds the CA in it, too."""
        warning = "# Secret. Whoever can read this file can do what its role may.\n"
        return warning + as_toml(**self._asdict())


def as_toml(*, ca: str, **values: str) -> str:
    """Return the lines of a key file with these values, as far as there are any."""
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in values.items() if value]
    return "".join([*lines, f'ca = """\n{ca}"""\n' if ca else ""])


class Person(NamedTuple):
    """A person or program that may join, with public keys and the hash of the token for HTTP."""

    role: str
    keys: tuple[str, ...]
    token: str | None = None


# --- key files ------------------------------------------------------------------------------


def read_key(path: Path) -> Key:
    """Return the key in a file. Raise AccessError if others can read it, or it is no key file."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read()
    except OSError as error:
        raise AccessError(f"the key file {path} cannot be read: {error.strerror}") from None
    if mode & OTHERS:
        raise AccessError(f"others can read the key file {path}: chmod 600 {path}")
    try:
        key = Key(**tomllib.loads(content.decode()))
        if not all(isinstance(value, str) for value in key):
            raise TypeError("its values must be texts")
        if not HEX_KEY.fullmatch(key.key):
            raise ValueError("key is not an Ed25519 seed of 64 hexadecimal digits")
        context_of(key.ca)
    except (ValueError, TypeError) as error:
        raise AccessError(f"{path} is not a key file: {error}") from None
    return key


@cache
def context_of(ca: str) -> "ssl.SSLContext | None":
    """Return a TLS context that trusts only a CA (PEM); None if ``ca`` is empty.

    Raises ValueError if ``ca`` is no certificate.
    """
    if not ca:
        return None
    import ssl  # noqa: PLC0415  (see above)

    try:
        context = ssl.create_default_context(cadata=ca)
    except ssl.SSLError as error:
        raise ValueError(f"ca is not a certificate: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def untrusted(where: object, error: Exception, key: Key) -> Exception:
    """Return why there is no TLS with the router of a key, and what to do about it.

    Return the error itself if it is not about TLS.
    """
    import ssl  # noqa: PLC0415  (see above)

    if not isinstance(error, ssl.SSLError):
        return error
    if isinstance(error, ssl.SSLEOFError):
        return ConnectionResetError("the connection was closed")
    whose = f"the key of {key.name!r}"
    if not isinstance(error, ssl.SSLCertVerificationError):
        return AccessError(
            f"what listens at {where} does not speak TLS ({error.reason}), and the router of "
            f"{whose} does: nothing was sent; write tls = true under [router] of the instrument "
            "file and start the router again, or use a key file of this router"
        )
    cure = CURES.get(
        error.verify_code,
        "if that router is yours, get a new key file from its machine (hcam access add), else do "
        "not use it",
    )
    return AccessError(
        f"the router at {where} cannot prove that it is the one of {whose}: "
        f"{error.verify_message.rstrip('.')}; the key trusts {_ca_name(key.ca)} only; {cure}"
    )


def _ca_name(ca: str) -> str:
    context = context_of(ca)
    [known, *_] = context.get_ca_certs() if context else [{}]
    subject: Any = known.get("subject", ())
    return ", ".join(value for ((_, value),) in subject)


def own_key(program: str = LOCAL) -> Key | None:
    """Return a program's key: at HCAM_KEY, else its own in HCAM_HOME; None if there is none.

    Raises AccessError if the file cannot be used.
    """
    if given := os.environ.get("HCAM_KEY"):
        return read_key(Path(given))
    try:
        path = key_path(program)
        path.stat()
    except (OSError, HcamError):  # no such key, a home of another user, or no home at all
        return None
    return read_key(path)


def folder() -> Path:
    """Return the folder of the list of people and of the keys, in HCAM_HOME."""
    return home() / "access"


def keys_folder(folder: Path) -> Path:
    """Return the folder of the keys of this machine's programs."""
    return folder / "keys"


def key_path(program: str) -> Path:
    """Return the path of a program's key on this machine, if HCAM_KEY is not set."""
    return keys_folder(folder()) / f"{program}.key"


def name_of_router(folder: Path, address: str) -> str:
    """Return the router's address in this machine's keys, or ``address`` if there are none.

    Requests over HTTP are signed for this name, whatever port the router has now.
    """
    own = local_key(folder)
    return own.router if own else address


def local_key(folder: Path) -> Key | None:
    """Return the key of ``hcam`` on the router's machine, if it has been made already."""
    path = keys_folder(folder) / f"{LOCAL}.key"
    return read_key(path) if path.exists() else None


# --- the list of people ---------------------------------------------------------------------


def people(folder: Path) -> dict[str, Person]:
    """Return the list of people, by name. Raise AccessError if it is unusable."""
    path = folder / PEOPLE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise AccessError(f"{path} cannot be read: {error.strerror}") from None
    if path.stat().st_mode & OTHERS:
        raise AccessError(f"others can read {path}: chmod 600 {path}")
    try:
        return {
            name: Person(one["role"], tuple(one["keys"]), one["token"])
            for name, one in json.loads(content).items()
        }
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise AccessError(
            f"{path} is damaged ({type(error).__name__}: {error}): repair it, or remove it and "
            "start the router again, and only programs of this machine may join"
        ) from None


def add(
    folder: Path, name: str, role: str, router: str, path: Path | None = None, *, ca: str = ""
) -> Path:
    """Let somebody in; return the path of the new key file, by default in the folder.

    Raises AccessError if the name is taken or invalid, or the file exists.
    """
    with _changed(folder) as known:
        _require_new(name, known)
        path = path or keys_folder(folder) / f"{name}.key"
        if path.exists():
            raise AccessError(f"{path} exists already: remove it, or choose another with --out")
        key = Key.new(name, role, router, ca)
        write_secret(path, key.as_text())
        known[name] = Person(role, (key.public,), key.token_hash)
    return path


def add_public(folder: Path, name: str, role: str, public: str) -> None:
    """Let somebody in with a key made elsewhere, or give somebody a further key.

    Raises AccessError if another role has the name, or the name or key is invalid.
    """
    public = public.lower()
    if not HEX_KEY.fullmatch(public):
        raise AccessError("a public key is 64 hexadecimal digits")
    with _changed(folder) as known:
        before = known.get(name)
        if before is None or before.role != role:
            _require_new(name, known)
            known[name] = Person(role, (public,))
        elif public not in before.keys:
            known[name] = before._replace(keys=(*before.keys, public))


def remove(folder: Path, name: str) -> None:
    """Shut somebody out; remove the key file in the folder. Raise AccessError if unknown."""
    with _changed(folder) as known:
        if known.pop(name, None) is None:
            raise AccessError(
                f"there is no {name!r}; there are {', '.join(sorted(known)) or 'none'}"
            )
        (keys_folder(folder) / f"{name}.key").unlink(missing_ok=True)


def make_missing(folder: Path, roles: Mapping[str, str], router: str, ca: str = "") -> None:
    """Make missing keys of this machine's programs (``roles`` by name), and let them in.

    A key that was copied to another machine keeps its right to join. New keys contain the
    address ``router``; existing ones get it if there is a CA, or was one.
    """
    with _changed(folder) as known:
        for name, role in roles.items():
            path = keys_folder(folder) / f"{name}.key"
            if path.exists():
                key = read_key(path)
                if key.ca != ca or (ca and key.router != router):
                    key = key._replace(router=router, ca=ca)
                    write_secret(path, key.as_text())
            else:
                key = Key.new(name, role, router, ca)
                write_secret(path, key.as_text())
            before = known.get(name, Person(role, ()))
            if before.role != role or key.public not in before.keys:
                known[name] = Person(role, (*before.keys, key.public), key.token_hash)


def _require_new(name: str, known: Mapping[str, Person]) -> None:
    if not NAME.fullmatch(name) or name == ANONYMOUS:
        raise AccessError(f"{name!r} is not a name (letters, digits, and any of _ . @ -)")
    if name in known:
        raise AccessError(
            f"{name} is already there, with the role {known[name].role}: remove it first "
            f"(hcam access remove {name}), or choose another name"
        )


@contextmanager
def _changed(folder: Path) -> Iterator[dict[str, Person]]:
    """Yield the list of people for changes, and write it afterwards if it has changed."""
    path = folder / PEOPLE
    with writable_or_explain(path):
        for each in (folder, keys_folder(folder)):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
            each.chmod(0o700)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(lock, "r+"):
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = people(folder)
        before = dict(known)
        yield known
        if known != before or not path.exists():
            content = {name: person._asdict() for name, person in sorted(known.items())}
            write_secret(path, json.dumps(content, indent=1) + "\n")


def write_secret(path: Path, text: str) -> None:
    """Write a file for its owner only, as a whole or not at all. Raise HcamError on failure."""
    with writable_or_explain(path):
        write_whole(path, text)
