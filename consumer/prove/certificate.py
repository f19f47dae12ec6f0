"""The certificate of a run: `fraudline certify` on its own topics."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from consumer.certificate.certify import Asked, Certification
from consumer.certificate.refused import read_refused
from consumer.cli_options import cores
from consumer.settings import Settings
from consumer.streams import TopicStream
from consumer.trust import trust_of
from features.errors import FraudlineError
from features.profiles import load_catalog


def certificate(settings: Settings, *, with_labels: bool = True) -> tuple[dict[str, Any] | None, str]:
    """The certificate of what was decided, as JSON values; or why there is none. Nobody may still be deciding.

    Without labels it tells which decisions would have been others, had nobody ever sent one.
    """
    topics, model = settings.topics, settings.model
    with ExitStack() as stack:

        def stream(topic: str) -> TopicStream:
            made = TopicStream(settings.kafka, topic, waits=True)
            stack.callback(made.close)
            return made

        try:
            refused = read_refused(stream(topics.dead_letters))
            if not with_labels:
                refused.add_all(stream(topics.labels))
            asked = Asked(
                decisions=stream(topics.decisions),
                payments=stream(topics.payments),
                labels=stream(topics.labels),
                journal=stream(topics.journal),
                alerts=stream(topics.alerts),
                refused=refused,
                bundles=() if model.registry is not None else (model.bundle,),
                registry=model.registry,
                shards=settings.store.shards,
                max_payment_bytes=settings.processing.max_payment_bytes,
                max_future_ms=settings.processing.max_future_ms,
                threads=cores(),
                trust=trust_of(model),
            )
            return Certification(asked, load_catalog(settings.features.catalog)).run().document(), ""
        except FraudlineError as error:
            return None, str(error)
