"""`fraudline` as a child of a proof: it does not outlive its parent, however that ended, also where it is stopped."""

from __future__ import annotations

import sys

from consumer.cli import main
from consumer.prove.signals import follow_parent

if __name__ == "__main__":
    follow_parent(int(sys.argv[1]))
    main(sys.argv[2:])
