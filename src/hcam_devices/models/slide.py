"""The positions of the slide as ``hcam_widgets`` imports them, in detector pixels."""

from ..devices.zaber import FocalPlaneSlide

BLOCK_POS = FocalPlaneSlide.BLOCKED
UNBLOCK_POS = FocalPlaneSlide.UNBLOCKED
