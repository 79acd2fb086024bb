"""``python -m hcam_devices`` runs ``hcam``, also where that is not on PATH."""

from .cli.main import main

main()
