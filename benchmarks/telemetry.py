"""What a CCD head says, the same of ours and of the original: its values, units and words."""

import math

WORDS = {"peltier_status": "run", "state_reason": "None"}
USUAL = {
    "temperature": (-89.96, "deg_C"),
    "setpoint": (-90.0, "deg_C"),
    "pressure": (9.94e-6, "mbar"),
    "flow": (1.05, "l / min"),
    "heatsink": (37.95, "deg_C"),
    "peltier_current": (8.0, "A"),
}


def head(n: int) -> dict[str, tuple[float, str]]:
    """Return the values of the ``n``-th sample, with all their digits, and their units."""
    near = 1 + 1e-3 * math.sin(n)
    return {name: (value * near, unit) for name, (value, unit) in USUAL.items()}
