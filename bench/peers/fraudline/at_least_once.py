"""Fraudline with the delivery `at_least_once`."""

from __future__ import annotations

from bench.peers.fraudline.processor import main

if __name__ == "__main__":
    main("at_least_once")
