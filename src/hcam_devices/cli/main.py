"""``hcam``: its commands and their modules."""

import click

from .program import LazyGroup

SECTIONS = {
    "Run the instrument": {
        "up": ("up", "Run the router and the servers, and show the devices until Ctrl-C."),
        "router": ("router", "Run the router alone, or install it."),
        "config": ("config", "Check the instrument file."),
        "systemd": ("systemd", "Write systemd units that start everything at boot."),
        "access": ("access", "Let people and programs join the router, or remove them."),
    },
    "Watch and command it": {
        "watch": ("watch", "Show the devices live."),
        "status": ("watch", "Print a summary; exit with status 1 if anything is wrong."),
        "call": ("calls", "Call a procedure of a device, or list its procedures."),
        "publish": ("calls", "Set a value without an answer."),
    },
    "Use what was recorded": {
        "history": ("history", "Plot, print or export recorded values and commands."),
        "audit": ("nights", "Check that every sample of a night is stored exactly once."),
        "replay": ("nights", "Publish a recorded night again."),
        "dashboards": ("dashboards", "Write dashboards for Grafana."),
    },
    "Find faults": {
        "doctor": ("doctor", "Check the installation; print what is wrong and the cure."),
        "wire": ("watch", "Show the bytes between a device and its hardware."),
        "simulate": ("calls", "Give a simulated device a fault or other values."),
        "gtc": ("gtc", "Examine the telescope's own server."),
    },
}


@click.group(cls=LazyGroup, sections=SECTIONS)
@click.version_option(package_name="hcam_devices")
def main() -> None:
    """Run, watch and command the hardware of HiPERCAM."""
