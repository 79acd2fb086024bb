"""The programs, and the commands of ``hcam`` with one module for each group of them.

This file runs before any library is imported, so it keeps out what they would import in vain.
"""

import sys

# autobahn imports pyOpenSSL if there is any, without using it here. One that belongs to the system
# may not fit the newer cryptography of pip install --user, and then no program would start.
sys.modules.setdefault("OpenSSL", None)  # type: ignore[arg-type]
# FlatBuffers, which our messages do not use, would import numpy: 60 ms and 7 MiB. autobahn loads
# both modules late; astropy looks through all modules, and would load the second one alone.
sys.modules.setdefault("autobahn.flatbuffers", None)  # type: ignore[arg-type]
sys.modules.setdefault("autobahn.wamp.message_fbs", None)  # type: ignore[arg-type]
