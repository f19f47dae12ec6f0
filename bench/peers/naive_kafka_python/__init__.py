"""The loop of most tutorials, on kafka-python."""
