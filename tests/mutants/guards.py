"""Every guard that is taken away, in the order of the table."""

from __future__ import annotations

from typing import Final

from tests.mutants.guard import Guard
from tests.mutants.guards_delivery import DELIVERY
from tests.mutants.guards_features import FEATURES
from tests.mutants.guards_input import INPUT
from tests.mutants.guards_kafka import KAFKA
from tests.mutants.guards_models import MODELS
from tests.mutants.guards_people import PEOPLE
from tests.mutants.guards_prove import PROVE
from tests.mutants.guards_state import STATE

GUARDS: Final[tuple[Guard, ...]] = STATE + FEATURES + DELIVERY + KAFKA + INPUT + MODELS + PEOPLE + PROVE
