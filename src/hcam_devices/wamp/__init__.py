"""Devices on the WAMP network."""
