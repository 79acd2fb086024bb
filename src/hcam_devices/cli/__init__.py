"""The programs and the commands of ``hcam``.

This file runs before any library is imported, and keeps out modules that they would import in vain.
"""

import atexit
import gc
import os
import sys

# Modules and samples are many objects without cycles: looking for cycles takes a tenth of the time
# until a program runs, and a fifth of that of a short one when it ends.
gc.set_threshold(100_000)
atexit.register(gc.freeze)
# pydantic would read the metadata of all packages (15 ms), looking for plugins of its own.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
# autobahn imports pyOpenSSL if it is installed, although it is not used here. That of the system
# may not fit the newer cryptography of pip install --user; then no program would start.
sys.modules.setdefault("OpenSSL", None)  # type: ignore[arg-type]
# FlatBuffers, which is not used here, would import numpy (60 ms and 7 MiB). autobahn loads both
# modules lazily; astropy, which looks through all modules, would load the second one.
sys.modules.setdefault("autobahn.flatbuffers", None)  # type: ignore[arg-type]
sys.modules.setdefault("autobahn.wamp.message_fbs", None)  # type: ignore[arg-type]
# autobahn's parts in C: cffi, which loads them, takes 40 ms and 1 MiB. They check text, which we do
# not send, and mask what is sent, as transport.py does.
sys.modules.setdefault("_nvx_utf8validator", None)  # type: ignore[arg-type]
