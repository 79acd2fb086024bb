"""The hardware of HiPERCAM, a five-CCD high-speed camera, on a WAMP network."""


class HcamError(Exception):
    """An error whose text tells a person what is wrong, and what to do about it."""
