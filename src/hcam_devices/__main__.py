"""``python -m hcam_devices`` is ``hcam``, for where that is not on PATH."""

from .cli.main import main

main()
