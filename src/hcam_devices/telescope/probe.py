"""What a telescope's server is, found out by looking: nothing is moved or set.

The reference that the name service returns says what ``ior`` reads; the object says whether it is
alive, and what can be read of it.
"""

from ..core.fields import shorten
from ..errors import LINK_LOST, RefusedError
from .corba import READABLE, Corba
from .ior import describe


async def report(link: Corba) -> list[str]:
    """Return what is known of a telescope, in lines.

    Raises as ``Corba.open``, with what the reference says if there is one.
    """
    said = describe(await link.reference())
    said["addresses"] = ", ".join(said["addresses"])
    lines = [f"{name:<12} {value}" for name, value in said.items()]
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
