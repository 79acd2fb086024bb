"""Serves a telescope by omniORB: ``python orb_served.py NAMING_PORT IDL NAME [OPTION...]``.

It imports nothing of ours, which would take four times as long.
"""

import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

LOOPBACK = ["-ORBendPoint", "giop:tcp:127.0.0.1:"]


def serve(naming_port: str, idl: str, name: str, *options: str) -> None:
    """Serve a telescope with the types of an IDL file until the process is killed."""
    corba = importlib.import_module("omniORB.CORBA")
    orb = corba.ORB_init([__file__, *LOOPBACK, *options], corba.ORB_ID)
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    importlib.import_module("omniORB").importIDL(idl)
    naming = importlib.import_module("CosNaming")
    skeleton: Any = importlib.import_module("HIPERTELESCOPESERVER__POA")

    class Telescope(skeleton.HIPERTelescopeServer_ifce):  # type: ignore[misc]  # made from the IDL
        m1NoiseMaxValue = 0.0

        def getTelescopeParams(self) -> list[str]:
            return ["T_TUBE = 20 / [C];JUNK", "NAME = 'caf\xe9' / of Latin-1"]

        def getHumidity(self) -> float:
            return 50.0

        def getCabinetTemperature1(self) -> float:
            return 12.5

        getCabinetTemperature2 = getCabinetTemperature3 = getCabinetTemperature1

        def areMACSFollowErrorBelowThreshold(self) -> bool:
            return True

        def requestTelescopeOffset(self, dra: float, ddec: float) -> None:
            print("offset", dra, ddec, flush=True)
            if dra > 100:
                raise corba.NO_PERMISSION
            if ddec > 100:
                os.kill(os.getpid(), signal.SIGKILL)

        def startPointingModel(self, stars: int) -> None:
            print("stars", stars, flush=True)

    adapter = orb.resolve_initial_references("RootPOA")
    adapter._get_the_POAManager().activate()
    context = orb.string_to_object(f"corbaname::127.0.0.1:{naming_port}")
    context = context._narrow(naming.NamingContext)
    context.rebind([naming.NameComponent(name, "")], Telescope()._this())
    print("ready", flush=True)
    orb.run()


if __name__ == "__main__":
    serve(*sys.argv[1:])
