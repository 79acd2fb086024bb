"""Numbered samples on the disk of a server."""

from .journal import DAY, KEEP, Journal
from .tables import read_page

__all__ = ["DAY", "KEEP", "Journal", "read_page"]
