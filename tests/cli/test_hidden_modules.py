"""What the programs hide from autobahn is not missed by anything else."""

import subprocess
import sys

SERVER = """
import asyncio, sys
import hcam_devices.cli.servers
from hcam_devices.core.fields import Setpoint
field = Setpoint(unit="deg_C", limits=(-100, 25), name="target")
unused = "numpy", "cffi", "astropy", "hcam_devices.history.recorder", "hcam_devices.detector"
loaded = [name for name in unused if name in sys.modules]
print(loaded, round(asyncio.run(field.accept("193.15 K")), 3))
"""


def test_a_server_imports_nothing_large_in_vain_and_can_convert_units() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVER], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "[] -80.0\n", done.stderr
