"""The telescope: its CORBA link, its header, its motions, dithering, and a simulator."""
