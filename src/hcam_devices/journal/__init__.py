"""Numbered samples on the disk of a server."""

from .age import DAY_S
from .journal import KEEP, Journal

__all__ = ["DAY_S", "KEEP", "Journal"]
