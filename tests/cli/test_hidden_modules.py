"""What the programs hide from autobahn is not missed by anything else."""

import subprocess
import sys

SERVER = """
import asyncio, sys
import hcam_devices.cli.main, hcam_devices.wamp.server
from hcam_devices.core.fields import Setpoint
field = Setpoint(unit="deg_C", limits=(-100, 25), name="target")
print("numpy" in sys.modules, round(asyncio.run(field.accept("193.15 K")), 3))
"""


def test_a_server_imports_numpy_only_to_convert_units() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVER], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "False -80.0\n", done.stderr
