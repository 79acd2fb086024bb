"""The hardware: one file for each device, with its codec, declarations and simulator."""
