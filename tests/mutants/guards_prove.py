"""Guards of a proof: what it leaves alone, what it removes, and what it does not call held."""

from __future__ import annotations

from typing import Final

from tests.mutants.guard import Guard

_RESOURCES: Final = "consumer/prove/resources.py"
_ADMIN: Final = "consumer/kafka/admin.py"
_NAMESPACE: Final = "features/redis_store/namespace.py"
_FAULTS: Final = "consumer/prove/faults.py"
_REPLICAS: Final = "consumer/prove/replicas.py"
_JUDGE: Final = "consumer/prove/judge.py"
_JUDGE_REPLAY: Final = "consumer/prove/judge_replay.py"
_CERTIFICATE: Final = "consumer/prove/certificate.py"
_HISTORY: Final = "consumer/prove/history.py"
_EVIDENCE: Final = "consumer/prove/evidence.py"
_LEAKS: Final = "consumer/prove/judge_leaks.py"
_REPORT: Final = "consumer/prove/report.py"
_PROVED: Final = "tests/test_prove.py"
_TIDIED: Final = "tests/test_prove_tidy.py"
_REPLICATED: Final = "tests/test_prove_replicas.py"
_JUDGED: Final = "tests/test_prove_judges.py"
_OTHERS: Final = "a proof touches nothing of others"
_REMOVED: Final = "a proof removes what it made, and nothing else"
_SAID: Final = "a proof calls nothing held that it did not see"
_TAMPERED: Final = f"{_JUDGED}::test_what_was_tampered_with_breaks_its_promise"
_UNTRIED: Final = f"{_JUDGED}::test_what_was_not_tried_is_not_called_held"
_UNMARKED: Final = f"{_PROVED}::test_what_has_not_the_mark_of_the_run_is_left_alone"

PROVE: Final = (
    Guard(
        "refusing a run whose topics are there",
        _OTHERS,
        _RESOURCES,
        "        if taken is not None:\n            raise _taken",
        "        if False:\n            raise _taken",
        (f"{_PROVED}::test_a_topic_that_is_there_already_is_refused",),
    ),
    Guard(
        "refusing a run whose keys are there",
        _OTHERS,
        _RESOURCES,
        "        if self.keys.size():\n            raise _taken",
        "        if False:\n            raise _taken",
        (f"{_PROVED}::test_a_key_that_is_there_already_is_refused",),
    ),
    Guard(
        "removing only keys that the run has claimed",
        _REMOVED,
        _RESOURCES,
        "        if self._has_claimed:\n",
        "        if True:\n",
        (f"{_TIDIED}::test_keys_that_a_run_did_not_get_to_claim_are_not_removed",),
    ),
    Guard(
        "a mark is put where there is none",
        _OTHERS,
        _NAMESPACE,
        'owner.encode(), b"NX")',
        "owner.encode())",
        ("tests/test_redis_namespace.py::test_what_a_store_wrote_is_found_and_removed_and_nothing_else",),
    ),
    Guard(
        "keys of a name that only begins alike",
        _REMOVED,
        _NAMESPACE,
        'self._prefix = f"{namespace}:".encode()',
        "self._prefix = namespace.encode()",
        (f"{_PROVED}::test_keys_beyond_the_namespace_are_never_removed",),
    ),
    Guard(
        "leaving a topic to those who wrote into it before the mark",
        _OTHERS,
        _ADMIN,
        "        made[:] = [topic for topic in made if topic not in foreign]\n",
        "",
        (f"{_TIDIED}::test_a_topic_into_which_somebody_wrote_before_the_mark_is_left_alone",),
    ),
    Guard(
        "refusing topics into which somebody wrote before the mark",
        _OTHERS,
        _ADMIN,
        "        foreign = [topic for topic in made if placed[topic]]\n",
        "        foreign: list[str] = []\n",
        (
            f"{_TIDIED}::test_a_topic_into_which_somebody_wrote_before_the_mark_is_left_alone",
            f"{_PROVED}::test_a_topic_that_somebody_else_makes_at_the_same_time_is_not_taken",
        ),
    ),
    Guard(
        "a topic that was made is noted",
        _REMOVED,
        _ADMIN,
        "                made.append(name)\n            except KafkaRefused",
        "                pass\n            except KafkaRefused",
        (f"{_PROVED}::test_a_topic_that_somebody_else_makes_at_the_same_time_is_not_taken",),
    ),
    Guard(
        "a topic of which nobody heard whether it was made is removed",
        _REMOVED,
        _ADMIN,
        "                made.append(name)\n                first",
        "                first",
        ("tests/test_prove_tidy.py::test_topics_of_which_nobody_heard_whether_they_were_made_are_removed",),
    ),
    Guard(
        "cleaning only topics with the mark of the run",
        _REMOVED,
        _RESOURCES,
        "own = [name for name, owner in owners.items() if owner == run.run]",
        "own = list(owners)",
        (_UNMARKED,),
    ),
    Guard(
        "a mark names its run",
        _REMOVED,
        _ADMIN,
        "held = dict(message.headers() or ()).get(MARK)",
        "held = MARK and self._kafka.group_id.rpartition('-')[2].encode()",
        (f"{_UNMARKED}[none]", f"{_UNMARKED}[another run's]"),
    ),
    Guard(
        "a mark has no value",
        _REMOVED,
        _ADMIN,
        "if held is None or message.value() is not None else",
        "if held is None else",
        (f"{_UNMARKED}[this run's, on a record with a value]",),
    ),
    Guard(
        "cleaning only keys with the mark of the run",
        _REMOVED,
        _RESOURCES,
        "is_own = keys.owner() == run.run",
        "is_own = True",
        (_UNMARKED,),
    ),
    Guard(
        "cleaning no run that still works",
        _OTHERS,
        _RESOURCES,
        "if admin.group_state(run.prefix) not in _LEFT:",
        "if False:",
        (f"{_PROVED}::test_a_run_that_still_works_is_not_cleaned",),
    ),
    Guard(
        "noting a processor that ends by itself",
        _SAID,
        _REPLICAS,
        "            self.ended.append(worker.give_up() if worker.lives else worker.ended())\n",
        "            worker.close()\n",
        (f"{_REPLICATED}::test_a_processor_that_ends_by_itself_is_noted_and_does_not_end_the_proof",),
    ),
    Guard(
        "a processor that ends by itself breaks a promise",
        _SAID,
        _JUDGE,
        "        elif not each.told or (each.told",
        "        elif False and (each.told",
        (f"{_TAMPERED}[end_by_itself-kill]", f"{_TAMPERED}[end_by_itself-drain]"),
    ),
    Guard(
        "a stop counts once others have every partition",
        _SAID,
        _FAULTS,
        "return bool(own) and until(lambda: not _still_has(replicas, replica, own), limit_s)",
        "return bool(own) and until(lambda: not _still_has(replicas, replica, own), limit_s) or True",
        (f"{_REPLICATED}::test_a_stop_counts_only_if_others_were_given_every_partition_meanwhile",),
    ),
    Guard(
        "a stop that nobody noticed proves nothing",
        _SAID,
        _JUDGE,
        "    if not (wrong or evidence.stalls):\n",
        "    if False:\n",
        (f"{_UNTRIED}[kill-change1]",),
    ),
    Guard(
        "only a drain past its deadline may end with status 1",
        _SAID,
        _JUDGE,
        "if each.is_overdue and each.status == OVERDUE]",
        "if each.is_overdue]",
        (f"{_TAMPERED}[die_past_the_deadline-drain]",),
    ),
    Guard(
        "nothing is held that no replay has verified",
        _SAID,
        _REPORT,
        'return "held" if is_replayed else "unverified"',
        'return "held"',
        (f"{_JUDGED}::test_the_report_calls_nothing_held_that_no_replay_has_verified",),
    ),
    Guard(
        "a processor that hangs is killed and noted",
        _SAID,
        _REPLICAS,
        "            worker = self.workers.pop(replica)\n",
        "            if self.workers[replica].lives:\n                raise\n"
        "            worker = self.workers.pop(replica)\n",
        (f"{_REPLICATED}::test_a_processor_that_hangs_is_killed_and_noted_and_does_not_end_the_proof",),
    ),
    Guard(
        "a processor that hung did not end by itself",
        _SAID,
        _JUDGE,
        "        if each.is_stuck:\n",
        "        if False:\n",
        (f"{_JUDGED}::test_one_that_hung_is_not_said_to_have_ended_by_itself",),
    ),
    Guard(
        "a replay verifies nothing where no payment had features",
        _SAID,
        _JUDGE_REPLAY,
        "    if not (wrong or featured):\n",
        "    if False:\n",
        (f"{_JUDGED}::test_decisions_without_features_are_told_and_verify_nothing",),
    ),
    Guard(
        "a few payments with features verify nothing of the rest",
        _SAID,
        _JUDGE_REPLAY,
        "    if not wrong and featured < LEAST_FEATURED * len(tier_of):\n",
        "    if False:\n",
        (f"{_JUDGED}::test_a_few_decisions_with_features_are_no_evidence_for_the_rest",),
    ),
    Guard(
        "a proof is not written over another",
        "a proof touches nothing of others",
        "consumer/cli_prove.py",
        "if any((out / name).exists() for name in (DOCUMENT, PAGE)):",
        "if False:",
        ("tests/test_cli.py::test_the_report_of_another_proof_is_not_written_over",),
    ),
    Guard(
        "features after the flush verify nothing before it",
        _SAID,
        _JUDGE_REPLAY,
        "for each in evidence.decisions if each.at not in later}",
        "for each in evidence.decisions}",
        (f"{_JUDGED}::test_features_of_payments_after_the_flush_verify_nothing_before",),
    ),
    Guard(
        "payments that were decided without features are told",
        _SAID,
        _JUDGE,
        "    if not plain:\n",
        "    if True:\n",
        (f"{_JUDGED}::test_a_decision_without_features_is_told_unless_something_was_done",),
    ),
    Guard(
        "faults excuse payments without features",
        _SAID,
        _JUDGE,
        " for section, tiers in evidence.tiers.items() if section in CALM)",
        " for section, tiers in evidence.tiers.items())",
        (f"{_JUDGED}::test_a_decision_without_features_is_told_unless_something_was_done",),
    ),
    Guard(
        "labels may be missing only where the state was away in the end",
        _SAID,
        _JUDGE_REPLAY,
        "        if evidence.decisions[-1].tier in FEATURED:\n",
        "        if False:\n",
        (f"{_TAMPERED}[number_no_label-labels]",),
    ),
    Guard(
        "a label counts once the journal numbers it",
        _SAID,
        _JUDGE_REPLAY,
        "            if each.at not in numbered:\n",
        "            if False:\n",
        (f"{_TAMPERED}[miss_a_label-labels]", f"{_TAMPERED}[miss_a_reversal-labels]"),
    ),
    Guard(
        "a number of a payment is none of a label",
        _SAID,
        _JUDGE_REPLAY,
        '        if each.role == "labels"\n',
        "",
        (f"{_TAMPERED}[number_the_payment_beside_a_label-labels]",),
    ),
    Guard(
        "a label that is a dead letter was not applied",
        _SAID,
        _JUDGE_REPLAY,
        "            elif each.at in refused:\n",
        "            elif False:\n",
        (f"{_TAMPERED}[refuse_a_label-labels]",),
    ),
    Guard(
        "labels are used where decisions are others without them",
        _SAID,
        _JUDGE_REPLAY,
        'return "" if evidence.changed_by_labels else',
        'return "" if True else',
        (f"{_UNTRIED}[labels-change21]",),
    ),
    Guard(
        "the shortest history has a fraud that was labelled",
        _SAID,
        _HISTORY,
        "if not number or rng.random() < HOT_LABELLED]",
        "if rng.random() < HOT_LABELLED]",
        (f"{_JUDGED}::test_the_shortest_history_has_labels_that_later_payments_show",),
    ),
    Guard(
        "a replay without labels has none",
        _SAID,
        _CERTIFICATE,
        "            if not with_labels:\n",
        "            if False:\n",
        (f"{_PROVED}::test_a_secured_deployment_holds_every_promise_through_faults_and_has_nothing_more_afterwards",),
    ),
    Guard(
        "where an epoch comes from numbers nothing",
        _SAID,
        _EVIDENCE,
        "                if entry.count:",
        "                if True:",
        (f"{_JUDGED}::test_the_journal_is_read_as_runs_of_records",),
    ),
    Guard(
        "what is left breaks a promise",
        _REMOVED,
        _LEAKS,
        'wrong = [f"{what} is still there" for what in told.left] + told.problems',
        "wrong = told.problems",
        (f"{_TAMPERED}[leave_a_topic-nothing left]",),
    ),
)
