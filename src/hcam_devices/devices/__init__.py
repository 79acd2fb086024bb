"""The hardware: one file a device, with its codec, its declarations and its simulator."""
