"""What a program needs of the machine it runs on; nothing here knows of the instrument."""
