"""Suites that every implementation of a seam passes; a test module subclasses one and provides its fixtures."""
