"""Examines a telescope's server without moving or setting anything.

Type, ORB and addresses are in the reference that the name service returns; the object itself is
asked whether it is alive, and for every value that can be read.
"""

from ..core.fields import shorten
from ..errors import LINK_LOST, RefusedError
from .corba import READABLE, Corba
from .ior import describe


async def report(link: Corba) -> list[str]:
    """Return lines about a telescope's server: its reference, and its answers.

    Raises what ``Corba.open`` raises; if there is a reference, its contents are in the text.
    """
    known = describe(await link.reference())
    known["addresses"] = ", ".join(known["addresses"])
    lines = [f"{name:<12} {value}" for name, value in known.items()]
    try:
        await link.open()
    except LINK_LOST as error:
        raise ConnectionError("\n".join([*lines, f"{'alive':<12} no: {error}"])) from None
    lines.append(f"{'alive':<12} yes")
    for operation in READABLE:
        try:
            answer = shorten(await link.ask(None, operation))
        except (*LINK_LOST, RefusedError, ValueError) as error:
            answer = f"not read: {error}"
        lines.append(f"  {operation:<34} {answer}")
    link.close()
    return lines
