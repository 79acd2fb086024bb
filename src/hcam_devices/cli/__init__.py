"""What people type: the programs, and their commands."""
