"""What a program needs of the machine on which it runs. Nothing here knows of the instrument."""
