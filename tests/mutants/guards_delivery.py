"""Guards of the delivery: one outcome a record, offsets with their records, and what is true after a failure."""

from __future__ import annotations

from typing import Final

from tests.mutants.guard import Guard

_LOOP: Final = "consumer/loop.py"
_PIPELINE: Final = "consumer/pipeline.py"
_PUBLISHER: Final = "consumer/kafka/publisher.py"
_SOURCE: Final = "consumer/kafka/source.py"
_CLIENT: Final = "consumer/kafka/client.py"
_CONTRACT: Final = "tests/test_kafka_contract.py"
_PIPED: Final = "tests/test_pipeline.py"
_SECURITY: Final = "tests/test_kafka_security.py"
_KILLS: Final = "tests/faults/test_kills.py::test_a_worker_that_is_killed_at_a_step_loses_and_repeats_nothing"
_REFUSED: Final = "tests/faults/test_refused_records.py"
_BROKER: Final = "tests/faults/test_outages.py::test_a_broker_that_dies_in_a_transaction_costs_nothing"
_ONE: Final = "1: one outcome a record"

DELIVERY: Final = (
    Guard(
        "offsets in the transaction",
        _ONE,
        _PUBLISHER,
        "self._within(self._begin)\n        if spans:",
        "self._within(self._begin)\n        if False:",
        (f"{_CONTRACT}::test_a_transaction_carries_its_offsets",),
    ),
    Guard(
        "committing the offset behind the last record",
        "3: the committed offset is the end",
        _SOURCE,
        "message.offset() + 1 for message in messages",
        "message.offset() for message in messages",
        (f"{_CONTRACT}::test_a_source_reads_on_where_the_last_batch_ended_and_rewinds_to_what_is_committed",),
    ),
    Guard(
        "committing the marks of transactions too",
        "3: the committed offset is the end",
        _SOURCE,
        "max(ends.get(source, owned.taken), owned.end),",
        "ends.get(source, owned.taken),",
        (f"{_CONTRACT}::test_a_source_commits_past_the_marks_of_transactions",),
    ),
    Guard(
        "committing a batch under the membership that took it",
        "1: nothing twice",
        _SOURCE,
        "        self._held = taken\n",
        "        self._held = Taken(taken.spans, self._consumer.consumer_group_metadata(), taken.owners)\n",
        (f"{_CONTRACT}::test_a_batch_is_committed_under_the_membership_that_took_it",),
    ),
    Guard(
        "committing nothing that was taken away meanwhile",
        "1: nothing is lost",
        _SOURCE,
        "return owned if owned is self._held.owners.get(source) else None",
        "return owned",
        (f"{_CONTRACT}::test_what_was_taken_away_since_a_batch_was_taken_is_not_committed_with_it",),
    ),
    Guard(
        "taking a batch behind the one that is not committed",
        "1: nothing twice",
        _SOURCE,
        "self._owned[span.topic, span.partition].taken = span.end",
        "pass",
        (f"{_CONTRACT}::test_a_batch_may_be_taken_before_the_one_in_front_of_it_is_committed",),
    ),
    Guard(
        "reading a batch again that was taken and given up",
        "1: nothing is lost",
        _SOURCE,
        "owned.position = owned.taken = owned.committed",
        "owned.position = owned.committed",
        (f"{_CONTRACT}::test_a_batch_may_be_taken_before_the_one_in_front_of_it_is_committed",),
    ),
    Guard(
        "sending nothing of a flood ahead",
        "a flood of bad records ends a processor before anything of it is done",
        _PIPELINE,
        "if ahead and len(decoded.batch):",
        "if ahead:",
        (f"{_PIPED}::test_nothing_of_a_flood_moves_before_it_was_looked_at",),
    ),
    Guard(
        "telling what the state had when features were read",
        "a decision says what it was made of",
        _PIPELINE,
        """        offsets = () if enriched is None else self._offsets(spans)
        ahead = None if meanwhile is None else meanwhile()
""",
        """        ahead = None if meanwhile is None else meanwhile()
        offsets = () if enriched is None else self._offsets(spans)
""",
        (f"{_PIPED}::test_a_batch_that_was_begun_ahead_is_decided_as_any_other",),
    ),
    Guard(
        "hearing how a commit ended that was made beside the next batch",
        "1: nothing is lost",
        _PIPELINE,
        "        return committing.result()",
        "        return time.perf_counter(), self._clock() * 1_000",
        (f"{_PIPED}::test_a_batch_whose_commit_fails_beside_the_next_one_fails_as_any_other",),
    ),
    Guard(
        "computing features anew that were computed ahead for another model",
        "2: features as the model knows them",
        "features/enrich.py",
        "if sent.found.catalog is not self.catalog:",
        "if False:",
        ("tests/test_state_ahead.py::test_features_that_were_computed_ahead_for_another_model_are_computed_anew",),
    ),
    Guard(
        "taking the answer for a batch that is given up",
        "2: no features of another batch",
        "consumer/state.py",
        "            self._enricher.receive(sent)\n        except",
        "            pass\n        except",
        ("tests/test_simulation.py::test_random_histories_on_the_memory_store",),
    ),
    Guard(
        "dropping an answer that nobody took",
        "2: no features of another batch",
        "features/redis_store/store.py",
        "        if self._awaited:\n            self.close()",
        "        if False:\n            self.close()",
        ("tests/test_redis_store.py::test_an_answer_that_nobody_took_is_never_taken_for_that_of_another_call",),
    ),
    Guard(
        "an outage while a batch is sent ahead is no loss of state",
        "2: a lost state, and nothing else, gets new epochs",
        "consumer/state.py",
        """            return self._enricher.send(batch, spans, self._epochs, labels)
        except StoreUnavailable as error:
            self._failed(error)
""",
        """            return self._enricher.send(batch, spans, self._epochs, labels)
        except StoreUnavailable:
            pass
""",
        ("tests/test_state_ahead.py::test_a_store_that_is_away_is_sent_nothing_and_that_is_an_outage_and_no_loss",),
    ),
    Guard(
        "giving a batch up whose partitions were taken away",
        "1: one outcome a record",
        _SOURCE,
        "return all(self._kept(span) for span in self._held.spans)",
        "return True",
        (f"{_CONTRACT}::test_what_was_taken_away_since_a_batch_was_taken_is_not_committed_with_it",),
    ),
    Guard(
        "giving the batch ahead up with the one before it",
        "1: nothing is lost",
        _LOOP,
        "        self._forget_ahead()\n        now = self._clock()",
        "        now = self._clock()",
        (f"{_REFUSED}::test_while_replicas_are_missing_decisions_wait",),
    ),
    Guard(
        "flushing before offsets are committed, at least once",
        "1: nothing is lost",
        _PUBLISHER,
        "with _lost_when_fatal():\n            self._flush()",
        'with _lost_when_fatal():\n            self._step("after_flush")',
        (
            f"{_REFUSED}::test_what_a_topic_finds_too_large_for_a_while_is_published_once_it_takes_it[decisions-at_least_once]",
        ),
    ),
    Guard(
        "rewinding after a batch that failed",
        "1: nothing is lost",
        _LOOP,
        "if self._must_rewind:\n            self._source.rewind()",
        "if self._must_rewind:\n            pass",
        (f"{_REFUSED}::test_while_replicas_are_missing_decisions_wait",),
    ),
    Guard(
        "a new producer after a commit of unknown outcome",
        _ONE,
        _LOOP,
        "if self._must_renew:\n            self._publisher.renew()",
        "if self._must_renew:\n            pass",
        (f"{_BROKER}[in_commit-exactly_once]",),
    ),
    Guard(
        "dropping records of partitions that were taken away",
        "1: a stale worker decides nothing",
        _SOURCE,
        "if source in due and offset >= due[source]:",
        "if offset >= due.get(source, 0):",
        (f"{_CONTRACT}::test_a_second_member_gets_its_half_without_stopping_the_first",),
    ),
    Guard(
        "dropping records that were read twice",
        _ONE,
        _SOURCE,
        "if source in due and offset >= due[source]:",
        "if source in due:",
        (f"{_CONTRACT}::test_a_source_gives_nothing_twice_while_it_is_not_rewound",),
    ),
    Guard(
        "committing only as a member of the group",
        "1: a stale worker decides nothing",
        _SOURCE,
        "if self._held.membership[_GENERATION] == _NO_GENERATION:",
        "if False:",
        (f"{_CONTRACT}::test_what_a_worker_without_membership_published_never_rides_on_a_later_commit",),
    ),
    Guard(
        "aborting what a worker without membership published",
        _ONE,
        _PUBLISHER,
        "            self._abort()\n            raise\n\n    def _abort",
        "            raise\n\n    def _abort",
        (f"{_CONTRACT}::test_what_a_worker_without_membership_published_never_rides_on_a_later_commit",),
    ),
    Guard(
        "giving up a transactional id that another uses",
        "one transactional id for two workers ends one of them",
        _PUBLISHER,
        "if len(self._fenced_at) >= FENCE_LIMIT:",
        "if False:",
        ("tests/faults/test_takeover.py::test_of_two_workers_with_one_transactional_id_one_gives_up",),
    ),
    Guard(
        "reading committed records only",
        "1: what was aborted is no payment",
        _CLIENT,
        '"isolation.level": "read_committed"',
        '"isolation.level": "read_uncommitted"',
        (f"{_CONTRACT}::test_what_a_producer_aborted_is_never_read_as_a_payment",),
    ),
    Guard(
        "refusing offsets that the topic does not hold",
        "1: nothing is skipped silently",
        _SOURCE,
        "if not low <= known.offset <= high:",
        "if False:",
        (f"{_CONTRACT}::test_offsets_that_the_topic_does_not_hold_are_refused",),
    ),
    Guard(
        "labels first, as they lie in the batch",
        "2: the journal tells the order that was applied",
        _SOURCE,
        "ordered = tuple(sorted(spans, key=lambda span: (not span.labels, span.partition)))",
        "ordered = tuple(sorted(spans, key=lambda span: (span.labels, -span.partition)))",
        (f"{_CONTRACT}::test_labels_are_read_beside_payments_and_rewound_with_them",),
    ),
    Guard(
        "an ACL that is missing ends the process",
        "what no retry mends is said at once",
        _LOOP,
        "            except KafkaRefused:  # what is not allowed does not come to be by asking again\n"
        "                raise\n",
        "",
        (f"{_SECURITY}::test_an_acl_that_is_taken_away_ends_the_process[topic s.dlq write-exactly_once]",),
    ),
    Guard(
        "asking for every right at the start",
        "a missing ACL is told before the first payment",
        "consumer/app.py",
        "            self._require_rights()\n            self.publisher",
        "            self.publisher",
        (f"{_SECURITY}::test_a_topic_that_may_only_be_seen_is_told_at_the_start",),
    ),
    Guard(
        "verifying the broker's certificate",
        "4: payments go to nobody who is not trusted",
        _CLIENT,
        '"enable.ssl.certificate.verification": True',
        '"enable.ssl.certificate.verification": False',
        (f"{_SECURITY}::test_who_is_not_trusted_does_not_start_and_is_told_the_setting",),
    ),
    Guard(
        "verifying the broker's name",
        "4: payments go to nobody who is not trusted",
        _CLIENT,
        '"ssl.endpoint.identification.algorithm": "https"',
        '"ssl.endpoint.identification.algorithm": "none"',
        (f"{_SECURITY}::test_who_is_not_trusted_does_not_start_and_is_told_the_setting",),
    ),
    Guard(
        "verifying Redis' certificate",
        "4: history goes to nobody who is not trusted",
        "features/redis_store/servers.py",
        'return given | {"ssl_cert_reqs": "required", "ssl_check_hostname": True}',
        'return given | {"ssl_cert_reqs": "none", "ssl_check_hostname": False}',
        ("tests/test_redis_security.py::test_a_server_of_another_authority_is_refused",),
    ),
    Guard(
        "verifying Redis' name",
        "4: history goes to nobody who is not trusted",
        "features/redis_store/servers.py",
        '"ssl_check_hostname": True}',
        '"ssl_check_hostname": False}',
        ("tests/test_redis_security.py::test_a_server_of_another_name_is_refused",),
    ),
    Guard(
        "no decision for a repeated event id",
        "1: a duplicate is counted, not decided",
        _PIPELINE,
        "~(enriched.repeated | enriched.stale)",
        "~enriched.stale",
        (f"{_PIPED}::test_a_repeated_event_id_gets_no_decision_and_is_counted",),
    ),
    Guard(
        "no decision for what another worker committed",
        "1: a stale worker decides nothing",
        _PIPELINE,
        "~(enriched.repeated | enriched.stale)",
        "~enriched.repeated",
        (f"{_PIPED}::test_a_payment_that_another_worker_has_committed_gets_no_decision",),
    ),
    Guard(
        "a dead letter for what can't be decided",
        _ONE,
        _PIPELINE,
        "yield from outbox.dead_letters(decoded.rejected)",
        "yield from ()",
        (f"{_PIPED}::test_every_record_has_exactly_one_outcome",),
    ),
    Guard(
        "the journal of what was applied",
        "2: every payment in the state has a published order",
        _PIPELINE,
        "yield from outbox.journal(entries(champion.enriched.recorded))",
        "yield from ()",
        (f"{_KILLS}[after_produce-exactly_once]",),
    ),
    Guard(
        "one order a partition in a batch",
        "3: order per key is kept",
        "consumer/decode.py",
        "    return sorted(messages, key=lambda message: message.partition())",
        "    return sorted(messages, key=lambda message: (message.partition(), -message.offset()))",
        ("tests/test_decode.py::test_log_order_groups_partitions_and_keeps_the_order_inside_each",),
    ),
    Guard(
        "decisions are keyed by their card",
        "3: order per key is kept",
        "consumer/publish.py",
        "payment.card_id.encode(),\n                encode(",
        "payment.event_id.encode(),\n                encode(",
        ("tests/test_publish.py::test_a_decision_says_what_was_decided",),
    ),
    Guard(
        "waiting for the store where payments are to wait",
        "`store.outage = pause` decides nothing without features",
        _PIPELINE,
        "if enriched is None and self._pause_on_outage:",
        "if False:",
        (f"{_PIPED}::test_without_the_store_and_with_pause_nothing_leaves",),
    ),
    Guard(
        "trying the store again after an outage",
        "features come back by themselves",
        "consumer/state.py",
        "while not self.ready and self._clock() >= self._retry_at_s:",
        "while not self.ready and self._failures < 2:",
        ("tests/test_state_keeper.py::test_a_store_that_is_away_is_asked_again_after_a_while_and_not_before",),
    ),
    Guard(
        "a bound for what is explained before a batch leaves",
        "an alert is worth more than its reasons",
        "consumer/explaining.py",
        "if time.monotonic() >= self._until:\n                return\n            some",
        "some",
        ("tests/test_explaining.py::test_nothing_is_explained_once_the_time_is_over",),
    ),
    Guard(
        "the deadline of a drain",
        "a process that is told to end ends",
        "consumer/app.py",
        "        os._exit(1)\n",
        "        pass\n",
        ("tests/test_signals.py::test_a_drain_ends_in_good_order_or_with_its_deadline",),
    ),
    Guard(
        "the deadline of a drain while a client's call does not come back",
        "a process that is told to end ends",
        "consumer/app.py",
        "        stop()\n\n    signal.set_wakeup_fd(told, warn_on_full_buffer=False)\n",
        "        os.write(told, bytes([number]))\n        stop()\n\n",
        (
            "tests/test_signals.py::test_a_drain_ends_in_good_order_or_with_its_deadline[stuck-1-15]",
            "tests/faults/test_clock.py::test_asleep_it_ends_at_the_deadline_of_its_drain",
        ),
    ),
    Guard(
        "judging what lies in the future by Kafka's clock",
        "1: no payment is refused because the worker's clock is wrong",
        "consumer/decode.py",
        "elif payment.event_time > timestamp_ms + self._max_future_ms:",
        'elif payment.event_time > __import__("time").time() * 1_000 + self._max_future_ms:',
        ("tests/faults/test_clock.py::test_under_load_it_goes_on[(-3600, 3600)]",),
    ),
    Guard(
        "liveness by the loop's own beat",
        "a loop that hangs is restarted",
        "consumer/telemetry.py",
        "return self.silent_s(now_s) <= self._stale_after_s",
        "return True",
        ("tests/test_telemetry.py::test_livez_fails_when_the_heartbeat_is_old",),
    ),
    Guard(
        "a replay's checkpoint follows what was acknowledged",
        "1: nothing is lost by a replay",
        "consumer/kafka/replay.py",
        "            self._failed.append((error, message.topic() or self._topic))",
        "            return",
        ("tests/test_replay.py::test_a_record_that_the_broker_refuses_is_told_and_not_acknowledged",),
    ),
    Guard(
        "retention is never shortened",
        "1: no record is deleted by a command",
        "consumer/topic_plan.py",
        "if name in RETENTIONS and amount(wants) < amount(has):",
        "if False:",
        ("tests/test_topics.py::test_no_retention_is_shortened_also_when_asked_for",),
    ),
)
