"""The detector controller: setups, the timing of frames, tables in its files, and a simulator."""
