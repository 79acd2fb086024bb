"""The instrument file."""
