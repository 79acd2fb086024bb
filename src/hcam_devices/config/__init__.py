"""The instrument file: devices, stores and the router."""
