"""The names of version 1.7 for the slide, which ``hcam_widgets`` and ``hcam_drivers`` import."""
