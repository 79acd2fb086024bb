"""The programs and the commands of ``hcam``.

This file runs before any library is imported, and keeps out modules that they would import in vain.
"""

import sys

# autobahn imports pyOpenSSL if it is installed, although it is not used here. That of the system
# may not fit the newer cryptography of pip install --user; then no program would start.
sys.modules.setdefault("OpenSSL", None)  # type: ignore[arg-type]
# FlatBuffers, which is not used here, would import numpy (60 ms and 7 MiB). autobahn loads both
# modules lazily; astropy, which looks through all modules, would load the second one.
sys.modules.setdefault("autobahn.flatbuffers", None)  # type: ignore[arg-type]
sys.modules.setdefault("autobahn.wamp.message_fbs", None)  # type: ignore[arg-type]
