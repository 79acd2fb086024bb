"""The names of version 1.7 for the telescope, which ``hcam_drivers`` and its GUI import."""
