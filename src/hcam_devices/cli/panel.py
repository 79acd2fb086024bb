"""``hcam panel``: the address of the web page that shows the instrument."""

import webbrowser

import click

from ..wamp.access import LOCAL, key_path, own_key
from ..wamp.uris import Address
from .program import Command, example, given, say


@click.command(cls=Command, epilog=example("hcam panel --open"))
@click.option("--open", "opened", is_flag=True, help="Open it in this machine's browser, too.")
@given("address")
def panel(address: Address, *, opened: bool) -> None:
    """Print the address of the web page that shows the instrument.

    Without a name it only shows. To command, sign in there with the name and the token of a key
    file; that of this machine is HCAM_HOME/access/keys/local.key.
    """
    key = own_key()
    url = f"{'https' if key and key.ca else 'http'}://{address}/"
    file = str(key_path(LOCAL))
    sign_in = f"to command, sign in with the name and the token in {file}"
    say({"url": url, "key": file}, (url, sign_in))
    if opened and not webbrowser.open(url):
        raise click.ClickException("there is no browser on this machine")
