"""The hardware of HiPERCAM, a five-CCD high-speed camera, on a WAMP network."""


class HcamError(Exception):
    """An error whose text says what is wrong and what to do next."""
