"""The tables of stores in the instrument file: files here, copies of them, or a database.

    [stores.archive]
    kind = "folder"                          # copies of closed nights
    folder = "/mnt/archive/hipercam"         # on another disk

    [stores.offsite]
    kind = "influxdb"
    url = "https://history.example.org:8086"

    database = "hipercam"                    # version 1, or VictoriaMetrics
    user = "hwlogger"                        # if the database needs one
    secret_file = "/etc/hcam/offsite"        # the password

    organization = "hipercam"                # version 2; the secret is a token
    bucket = "telemetry"

    api = 3                                  # version 3; the secret is a token
    database = "hipercam"

``ca`` is a file of certificates to trust instead of the system's. ``secret_variable`` names an
environment variable instead of a file. The secret is read for each request, so a new one is used at
once. If it is sent to another machine, the URL must begin with ``https``.
"""

import base64
import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlencode, urlsplit

from pydantic import AfterValidator, Field, model_validator

from .. import HcamError
from ..host.home import home
from .tables import Table


def _url(text: str) -> str:
    if "@" in text:
        raise ValueError("must not contain a user or password; use user and secret_file")
    whole = False
    with suppress(ValueError):  # its message would quote a part, which may be a password
        parts = urlsplit(text)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    if not whole or parts.query or parts.fragment or not re.fullmatch(r"[!-~]+", text):
        raise ValueError("must be like https://history.example.org:8086")
    return parts.geturl().rstrip("/")  # with the scheme in lower case


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path, such as /etc/hcam/offsite")
    return path


Text: TypeAlias = Annotated[str, Field(min_length=1)]
File: TypeAlias = Annotated[Path, Field(strict=False), AfterValidator(_absolute)]


class SecretError(Exception):
    """The secret cannot be read; the text says why and what to do."""


class InfluxDB(Table):
    """An InfluxDB of any version, or VictoriaMetrics."""

    kind: Literal["influxdb"]
    """A database that takes InfluxDB's line protocol."""
    url: Annotated[str, AfterValidator(_url)]
    """Where it is, such as https://history.example.org:8086."""
    api: Literal[3] | None = None
    """3 for version 3; versions 1 and 2 are known by the other settings."""
    database: Text | None = None
    """The database of version 1 or 3, or of VictoriaMetrics."""
    organization: Text | None = None
    """The organization of version 2."""
    bucket: Text | None = None
    """The bucket of version 2."""
    user: Text | None = None
    """The user of version 1, if it needs one."""
    secret_file: File | None = None
    """The file of the password or token."""
    secret_variable: Text | None = None
    """The environment variable of the password or token."""
    ca: File | None = None
    """A file of certificates to trust instead of the system's."""
    timeout: float = Field(default=10.0, gt=0, le=300)
    """The deadline (s) of a request."""

    @property
    def version(self) -> int:
        """The version of InfluxDB (1, 2 or 3)."""
        return self.api or (1 if self.bucket is None else 2)

    @property
    def place(self) -> str:
        """The name of the database or bucket, for people."""
        if self.version == 2:
            return f"bucket {self.bucket!r} of organization {self.organization!r}"
        return f"database {self.database!r}"

    @property
    def secret_from(self) -> str:
        """The source of the secret, for people; empty if there is none."""
        if self.secret_variable is not None:
            return f"environment variable {self.secret_variable}"
        return str(self.secret_file or "")

    @property
    def target(self) -> str:
        """The path and query, after the URL, to which lines are posted."""
        if self.version == 2:
            arguments = {"org": self.organization, "bucket": self.bucket, "precision": "ns"}
            return "/api/v2/write?" + urlencode(arguments)
        if self.version == 3:
            arguments = {"db": self.database, "precision": "nanosecond"}
            return "/api/v3/write_lp?" + urlencode(arguments)
        return "/write?" + urlencode({"db": self.database, "precision": "ns"})

    @model_validator(mode="after")
    def _fits_together(self) -> "InfluxDB":
        wrong = []
        v2 = self.bucket is not None or self.organization is not None
        if v2 and (self.bucket is None or self.organization is None):
            wrong.append("organization and bucket (version 2) belong together")
        if v2 == (self.database is not None) or (v2 and self.api):
            wrong.append(
                "give either database, or organization and bucket, or api = 3 and database"
            )
        if self.secret_file is not None and self.secret_variable is not None:
            wrong.append("give either secret_file or secret_variable")
        if self.user is not None and (v2 or self.api):
            wrong.append("user is for version 1 only; the other versions take a token")
        if self.version == 1 and bool(self.user) != bool(self.secret_from):
            wrong.append("user and its secret (secret_file or secret_variable) belong together")
        if self.ca is not None and not self.url.startswith("https:"):
            wrong.append("ca is for https only")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def authorization(self) -> tuple[str, str]:
        """Return the header Authorization and the secret in it; both are empty if there is none.

        Raises SecretError if the secret cannot be read or is not printable ASCII.
        """
        if self.secret_file is not None:
            secret = _from_file(self.secret_file).strip()
        elif self.secret_variable is not None:
            secret = os.environ.get(self.secret_variable, "").strip()
        else:
            return "", ""
        if not (secret and secret.isprintable() and secret.isascii()):
            raise SecretError(f"{self.secret_from} must contain a secret in printable ASCII")
        if self.version == 1:
            given = base64.b64encode(f"{self.user}:{secret}".encode()).decode()
            return f"Basic {given}", secret
        return f"{'Token' if self.version == 2 else 'Bearer'} {secret}", secret


def _from_file(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IRWXO:
                raise SecretError(f"every user can read {path}: chmod o= {path}")
            return file.read(10_000)
    except (OSError, UnicodeDecodeError) as error:
        raise SecretError(f"{path} cannot be read: {error}") from None


class Embedded(Table):
    """Files on the recorder's machine."""

    kind: Literal["embedded"] = "embedded"
    """The default kind."""
    keep_days: int | None = Field(default=None, ge=1)
    """Days for which samples are kept; by default for ever."""
    folder: str = ""
    """Where they are; by default ``HCAM_HOME/history``."""


class Folder(Table):
    """Copies of the closed nights of the first embedded store, such as on a network disk."""

    kind: Literal["folder"]
    """Copies of closed nights."""
    folder: File
    """Where they go, on another disk."""


StoreSettings: TypeAlias = Embedded | InfluxDB | Folder


def place(settings: StoreSettings, home: Path) -> Path:
    """Return the folder of a store's own files; a relative ``folder`` is in ``home``.

    ``~`` is the user's home directory. Raises HcamError if there is none.
    """
    if not isinstance(settings, Embedded):
        return home / "stores"
    folder = os.path.expanduser(settings.folder or "history")
    if folder.startswith("~"):
        raise HcamError(
            f"folder {folder!r}: there is no such home directory; write an absolute path"
        )
    return home / folder


def embedded_folders(stores: Mapping[str, StoreSettings], folder: Path | None = None) -> list[Path]:
    """Return the folders of the embedded stores, in the order of the instrument file.

    ``folder`` is the home.
    """
    embedded = (store for store in stores.values() if isinstance(store, Embedded))
    return [place(store, folder or home()) for store in embedded]


def elsewhere(stores: Mapping[str, StoreSettings]) -> str:
    """Return a sentence about the databases that contain the history."""
    places = " and ".join(
        f"{name} ({store.place} at {store.url})"
        for name, store in stores.items()
        if isinstance(store, InfluxDB)
    )
    return (
        f'history is kept in {places}: query it there, or add a store of kind = "embedded" to the '
        "instrument file, which can be read here"
    )


def is_near(url: str) -> bool:
    """Return whether the host of a URL is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
