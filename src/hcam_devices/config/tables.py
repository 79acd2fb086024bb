"""The tables of an instrument file and their settings, but for those of devices and interlocks.

Each class is the schema of a table: pydantic checks it, and the reference is made from it.
"""

import re
from ipaddress import IPv4Address
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from ..names import shorten
from .router import DEFAULT_HOST, DEFAULT_PORT, EVERY_NETWORK

HOST = r"^[\w.:-]+$"
MAX_URLS = 20
"""Each URL of [notify] may need a child of 44 MiB at the same time."""


class Table(BaseModel):
    """A table of the instrument file. An unknown key or a value of another type is a mistake."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)


def _address(text: str) -> str:
    """Return the address of a network interface. Raises ValueError if the text is no such one."""
    try:
        address = IPv4Address(text)
    except ValueError:
        raise ValueError(f"{shorten(text)} is not an IPv4 address of this machine") from None
    if address.is_unspecified or address.is_loopback:
        raise ValueError(
            f"{text}: name each address of this machine at which programs of version 1.7 may "
            "come in; on this machine itself they always may"
        )
    return text


class Router(Table):
    """The router: ``[router]`` in the file."""

    port: int = Field(default=DEFAULT_PORT, ge=1, le=65535)
    """The TCP port on which it listens."""
    listen: str = DEFAULT_HOST
    """The IPv4 address on which it listens; beyond loopback only with ``tls``."""
    tls: bool = Field(default=False, validate_default=True)
    """Whether it has TLS, with a certificate of the site's own CA."""
    names: list[Annotated[str, Field(pattern=HOST, max_length=253)]] = []
    """Further names and addresses by which programs may call it; they are in its certificate."""
    host: str = Field(default="", validate_default=True)
    """Where programs look for it; by default ``listen``."""

    @field_validator("listen")
    @classmethod
    def _is_an_address(cls, listen: str) -> str:
        try:
            return str(IPv4Address(listen))
        except ValueError:
            raise ValueError(
                "it has to be an IPv4 address of the router's machine, such as 192.0.2.1 "
                "(Crossbar, the router, has no TLS over IPv6)"
            ) from None

    @field_validator("tls")
    @classmethod
    def _is_needed(cls, tls: bool, info: ValidationInfo) -> bool:
        listen = info.data.get("listen", DEFAULT_HOST)
        if not tls and not IPv4Address(listen).is_loopback:
            raise ValueError(
                f"it has to be true with listen = {listen}, because everybody in that network "
                "could read and command the instrument otherwise"
            )
        return tls

    @field_validator("host")
    @classmethod
    def _has_a_default(cls, host: str, info: ValidationInfo) -> str:
        listen = info.data.get("listen", DEFAULT_HOST)
        if not host and listen == EVERY_NETWORK and info.data.get("tls"):
            raise ValueError(f"with listen = {listen} it has to say where programs find the router")
        if not IPv4Address(listen).is_loopback and (host == "localhost" or host.startswith("127.")):
            raise ValueError(f"the router listens on {listen}, not there: leave host out")
        if ":" in host and info.data.get("tls"):
            raise ValueError("Crossbar, the router, has no TLS over IPv6: give an IPv4 address")
        return host or listen

    @property
    def is_open(self) -> bool:
        """Whether the router listens to other machines."""
        return not IPv4Address(self.listen).is_loopback

    @property
    def certified(self) -> set[str]:
        """The names and addresses that are in the router's certificate."""
        return {self.host, self.listen, *self.names} - {EVERY_NETWORK}

    @property
    def elsewhere(self) -> str:
        """A warning if programs look for the router where it does not listen, or empty."""
        if self.is_open or self.host in ("localhost", self.listen):
            return ""
        return (
            f"[router] host is {self.host!r}, but the router of hcam up and hcam router listens on "
            f"{self.listen} only: servers and hcam find no router unless another runs at "
            f"{self.host}, port {self.port}; leave host out to use the router on this machine, "
            "or set listen, with tls = true, to its address in the network"
        )


class Legacy(Table):
    """Programs of version 1.7: ``[legacy]`` in the file."""

    enabled: bool = False
    """Whether they may join, in the realm ``realm1``, and command without a key."""
    listen: list[Annotated[str, AfterValidator(_address)]] = []
    """Addresses of this machine at which they may come in; on this machine they always may."""


class Server(Table):
    """Where a server runs: ``[servers.NAME]`` in the file."""

    host: str = Field(default="", pattern=HOST, max_length=253)
    """The name or address of the machine that runs the server; by default the router's."""


class Judgment(Table):
    """What changes the declared judgment of alarms: ``[alarms."GLOB"]`` in the file."""

    healthy: list[float] | None = Field(default=None, min_length=2, max_length=2)
    """The range of healthy values, in the unit of the field; inf is no limit."""
    delay: float | None = Field(default=None, ge=0, le=3600)
    """Seconds until the alarm is raised."""
    off_delay: float | None = Field(default=None, ge=0, le=3600)
    """Seconds until it is over."""
    deadband: float | None = Field(default=None, ge=0, le=0.5)
    """The fraction of the limit by which a value has to be healthy again."""
    latch: bool | None = None
    """Whether it stays until somebody has acknowledged it."""
    advice: str | None = Field(default=None, max_length=500)
    """What an observer should do; with an empty text the alarm is only a notice."""
    remind: float | None = Field(default=None, ge=60, le=86400)
    """Seconds after which an acknowledged error comes back."""

    @field_validator("healthy")
    @classmethod
    def _is_a_range(cls, healthy: list[float] | None) -> list[float] | None:
        if healthy and not healthy[0] < healthy[1]:
            raise ValueError("it has to be [low, high]; inf and -inf are no limit")
        return healthy


class Notify(Table):
    """Whom to tell of errors: ``[notify.NAME]`` in the file."""

    urls: list[str]
    """URLs of apprise, which are secrets."""
    after: float | None = Field(default=None, ge=0, le=86400)
    """Seconds without an acknowledgment until the message is sent: by default 180 for
    ``observer``, 600 for ``support``, else 0."""

    @field_validator("urls", mode="before")
    @classmethod
    def _are_of_apprise(cls, urls: object) -> object:
        if not isinstance(urls, list) or not 0 < len(urls) <= MAX_URLS:
            raise ValueError(
                f'it has to be a list of 1 to {MAX_URLS} URLs, such as ["mailtos://..."]'
            )
        for number, url in enumerate(urls, 1):
            if not isinstance(url, str) or not re.fullmatch(r"[a-z0-9]+://\S{1,1000}", url):
                raise ValueError(
                    f"number {number} of {len(urls)} has to be a URL of apprise without blanks, "
                    'which begins with the service, such as "mailtos://"'
                )
            if url in urls[: number - 1]:
                raise ValueError(f"number {number} of {len(urls)} is there twice")
        return urls


class File(Table):
    """The whole file; the tables within its tables are checked one by one."""

    title: str = Field(default="", max_length=100)
    """The title on panels; by default the name of the file."""
    router: Router = Router()
    legacy: Legacy = Legacy()
    servers: dict[str, dict[str, Any]] = {}
    devices: dict[str, dict[str, Any]]
    stores: dict[str, dict[str, Any]] = {}
    interlocks: dict[str, dict[str, Any]] = {}
    alarms: dict[str, dict[str, Any]] = {}
    notify: dict[str, Any] = {}


class Common(Table):
    """The settings of a device's table that do not depend on its kind."""

    kind: str
    """The module and class of the device, such as ``pdr900.VacuumGauge``."""
    server: str = "hwserver"
    """The server that presents it: hwserver, hserver or gtcserver, or one of them and a place."""
    aliases: list[str] = []
    """Other names of the device on the network."""
