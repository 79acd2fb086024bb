"""Hides Python's own ensurepip, so that CI sets up as on a Debian without python3-venv."""

raise ImportError("hidden by .ci/bare")
