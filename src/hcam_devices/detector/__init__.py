"""The detector controller: setups, frame timing, tables in its files, and a simulator."""
