"""``hcam access``: the people and programs that may join the router."""

from pathlib import Path

import click

from .. import HcamError
from ..config.instrument import Instrument
from ..names import did_you_mean
from ..ui.troubles import count
from ..wamp import access as keys
from ..wamp import roles
from ..wamp.router import make_keys
from ..wamp.uris import Address
from .program import Group, example, given, say

DEVICE = "device"


@click.group(cls=Group)
def access() -> None:
    """Let people and programs join the router, or remove them; both take effect at once.

    Run it on the router's machine, as the user who runs the router. A program without a key may
    only observe.
    """


@access.command(epilog=example("hcam access add ada --role operator --out ada.key"))
@click.argument("name")
@click.option(
    "--role",
    required=True,
    type=click.Choice([roles.OBSERVER, roles.OPERATOR, roles.ENGINEER, roles.RECORDER, DEVICE]),
    help="What NAME may do.",
)
@click.option("--server", help="The server whose devices NAME presents (with --role device).")
@click.option(
    "--public",
    metavar="HEX",
    help="The public key (Ed25519) that NAME has made; then no key file is made.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The key file to make (default: NAME.key in HCAM_HOME/access/keys).",
)
@given("instrument", "address", url=False)
def add(
    name: str,
    *,
    role: str,
    server: str | None,
    public: str | None,
    out: Path | None,
    instrument: Instrument,
    address: Address,
) -> None:
    """Let NAME join, and print the path of its new key file.

    Copy that file to the machine of NAME, and set HCAM_KEY to its path there. Keep it secret.
    """
    if (role == DEVICE) != (server is not None):
        raise click.UsageError("--role device needs --server; other roles do not take it")
    if server is not None:
        servers = roles.servers(instrument.entries.values())
        if server not in servers:
            raise HcamError(
                f"the instrument file has no server {server!r}; there are {', '.join(servers)}"
                f"{did_you_mean(server, servers)}"
            )
        role = roles.role_of(server)
    folder = keys.folder()
    own = keys.local_key(folder)
    if instrument.router.tls and not (own and own.ca):  # the router has not run with TLS yet
        where = Address(instrument.router.host, address.port)
        make_keys(instrument, instrument.entries.values(), where)
        own = keys.local_key(folder)
    router, ca = (own.router, own.ca) if own else (str(address), "")
    if public is None:
        made = str(keys.add(folder, name, role, router, out, ca=ca))
        say({"name": name, "role": role, "file": made}, made)
    elif out is None:
        keys.add_public(folder, name, role, public)
        text = f"# of the router, for the key file:\n{keys.as_toml(router=router, ca=ca)}"
        say({"name": name, "role": role, "router": router, "ca": ca}, text if ca else ())
    else:
        raise click.UsageError("--public makes no key file: omit --out")


@access.command(silent=True, epilog=example("hcam access remove ada"))
@click.argument("name")
def remove(name: str) -> None:
    """Remove NAME and its keys. If it has joined, its connection is closed."""
    keys.remove(keys.folder(), name)


@access.command("list", epilog=example("hcam access list"))
def list_() -> None:
    """Print who may join, with roles and numbers of keys."""
    people = keys.people(keys.folder())
    if not people:
        text = f"nobody yet: hcam router makes the keys of this machine in {keys.folder()}"
        click.echo(text, err=True)
    width = max(map(len, people), default=0)
    known = [(name, person.role, len(person.keys)) for name, person in sorted(people.items())]
    say(
        {name: {"role": role, "keys": keys} for name, role, keys in known},
        (f"{name:<{width}}  {role}, {count(keys, 'key')}" for name, role, keys in known),
    )
