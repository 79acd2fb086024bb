"""The recorder: follows every device's samples into stores, each exactly once."""
