"""The shell: Kafka, time, signals, metrics and the command line around what `models` concludes from `features`."""

from typing import Final

__version__: Final = "0.1.0"
