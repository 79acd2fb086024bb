"""The telescope: its CORBA link, what its header strings mean, and its simulator."""
