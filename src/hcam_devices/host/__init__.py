"""What every program needs from the machine. Nothing here knows the instrument."""
