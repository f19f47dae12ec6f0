"""Bytewax. The folder is not named `bytewax`, which would be taken for the package."""
