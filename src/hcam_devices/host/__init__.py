"""Services of the machine to every program. Nothing here knows of the instrument."""
