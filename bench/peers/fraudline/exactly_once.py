"""Fraudline with the delivery `exactly_once`."""

from __future__ import annotations

from bench.peers.fraudline.processor import main

if __name__ == "__main__":
    main("exactly_once")
