"""``hcam``: its commands and their modules."""

import click

from .program import VERSION, LazyGroup

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
        "panel": ("panel", "Print the address of the web page that shows them."),
        "status": ("watch", "Print a summary of what runs, and of what is wrong."),
        "alarms": ("alarms", "Show the alarms; acknowledge, shelve, hand over."),
        "get": ("values", "Print values of devices."),
        "set": ("values", "Set a value, and print what was read back."),
        "monitor": ("values", "Print values whenever they are read."),
        "stubs": ("stubs", "Write types of the devices, for scripts in Python."),
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
        "drill": ("drill", "Rehearse alarms and interlocks with the simulated hardware."),
        "simulate": ("calls", "Give a simulated device a fault or other values."),
        "gtc": ("gtc", "Examine the telescope's own server."),
    },
}


@click.group(cls=LazyGroup, sections=SECTIONS, params=[VERSION])
def main() -> None:
    """Run, watch and command the hardware of HiPERCAM."""
