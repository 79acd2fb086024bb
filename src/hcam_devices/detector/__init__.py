"""The detector controller: what it is told, how long it takes, its files, and its simulator."""
