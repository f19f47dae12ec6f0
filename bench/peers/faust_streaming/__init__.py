"""Faust, as its community keeps it (faust-streaming)."""
