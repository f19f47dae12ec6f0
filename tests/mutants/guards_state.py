"""Guards of the state: what makes a batch's append atomic, idempotent and complete, and a lost state noticed."""

from __future__ import annotations

from typing import Final

from tests.mutants.guard import Guard

_LUA: Final = "features/redis_store/apply.lua"
_SCRIPTS: Final = "features/redis_store/scripts.py"
_REDIS: Final = "features/redis_store/store.py"
_MEMORY: Final = "features/store.py"
_KEEPER: Final = "consumer/state.py"
_SURVEY: Final = "consumer/survey.py"
_ON_REDIS: Final = "tests/test_store_contract.py::TestRedisStore"
_IN_MEMORY: Final = "tests/test_store_contract.py::TestMemoryStore"
_STORE: Final = "tests/test_redis_store.py"
_KEPT: Final = "tests/test_state_keeper.py"
_BACK: Final = "tests/test_state_regressions.py"
_GAP: Final = "2: no record is missing from a log"
_ONCE: Final = "2: each record is in its logs once"
_LOST: Final = "2: a lost or older state is never taken for history"

STATE: Final = (
    Guard(
        "refusing a gap, in the script",
        _GAP,
        _LUA,
        "if marker < span[3] then",
        "if false then",
        (f"{_ON_REDIS}::test_a_marker_below_the_start_refuses_and_nothing_is_written",),
    ),
    Guard(
        "refusing a gap, in memory",
        _GAP,
        _MEMORY,
        "if marker < span.start:",
        "if marker < 0:",
        (f"{_IN_MEMORY}::test_a_marker_below_the_start_refuses_and_nothing_is_written",),
    ),
    Guard(
        "skipping records below the marker, in the script",
        _ONCE,
        _LUA,
        "if offset >= fresh[source] then",
        "if true then",
        (
            f"{_ON_REDIS}::test_a_replay_appends_and_numbers_nothing",
            f"{_ON_REDIS}::test_of_a_batch_that_starts_below_the_marker_only_the_rest_is_appended",
        ),
    ),
    Guard(
        "skipping records below the marker, in memory",
        _ONCE,
        _MEMORY,
        "new = self._new(records, fresh) if partial else records",
        "new = records",
        (f"{_IN_MEMORY}::test_a_replay_appends_and_numbers_nothing",),
    ),
    Guard(
        "the epoch of a call, in the script",
        _LOST,
        _LUA,
        "if known[1] ~= epoch then",
        "if false then",
        (f"{_ON_REDIS}::test_another_epoch_refuses", f"{_STORE}::test_flushall_is_noticed"),
    ),
    Guard(
        "the epoch of a call, in memory",
        _LOST,
        _MEMORY,
        "if append.epoch != shard.epoch:",
        "if False:",
        (f"{_IN_MEMORY}::test_another_epoch_refuses",),
    ),
    Guard(
        "a marker never moves back",
        _GAP,
        _LUA,
        "math.max(markers[i], span[4])",
        "span[4]",
        (f"{_ON_REDIS}::test_a_marker_never_moves_back",),
    ),
    Guard(
        "a floor never moves back",
        _ONCE,
        _LUA,
        "floors[i] = math.max(number(known[3 * i + 1] or 0), span[5])",
        "floors[i] = span[5]",
        (f"{_ON_REDIS}::test_floors_only_rise_and_are_returned",),
    ),
    Guard(
        "taking back what was appended before a refusal",
        "2: a call is carried out or not",
        _LUA,
        "take_back()\n      return length  -- the error",
        "return length  -- the error",
        (f"{_STORE}::test_a_foreign_key_refuses_and_nothing_is_written",),
    ),
    Guard(
        "looking whether a key is a log",
        "2: a foreign key is never read as history",
        _LUA,
        "return call('STRLEN', KEYS[place]) % UNIT == 0",
        "return true",
        (f"{_STORE}::test_a_foreign_key_that_is_only_to_be_replaced_refuses_too",),
    ),
    Guard(
        "comparing a log's beginning before it is replaced",
        "2: compaction changes no value",
        _LUA,
        " and sub(log, 1, UNIT) == first then",
        " then",
        (f"{_ON_REDIS}::test_a_log_that_begins_otherwise_is_not_replaced",),
    ),
    Guard(
        "comparing a log's length before it is replaced",
        "2: compaction changes no value",
        _LUA,
        "if log and #log - (appended[place] or 0) >= cut and",
        "if log and",
        (f"{_ON_REDIS}::test_a_log_that_is_shorter_or_gone_is_not_replaced",),
    ),
    Guard(
        "the life of an idle log",
        "5: memory is bounded",
        _LUA,
        "if length == #new then\n      call('EXPIRE', KEYS[k + 1], life)",
        "if false then\n      call('EXPIRE', KEYS[k + 1], life)",
        (f"{_STORE}::test_a_log_expires_when_it_is_idle_and_not_while_it_is_used",),
    ),
    Guard(
        "forgetting runs below the floor",
        "5: memory is bounded",
        _LUA,
        "if old[j + 1] > done then",
        "if true then",
        (f"{_ON_REDIS}::test_runs_that_ended_at_the_floor_are_forgotten",),
    ),
    Guard(
        "setting only markers that are missing",
        _GAP,
        _SCRIPTS,
        "if not known or (ARGV[1] == '1' and known < tonumber(ARGV[i + 1])) then",
        "if true then",
        (f"{_ON_REDIS}::test_adopt_sets_only_what_is_missing_and_force_only_raises",),
    ),
    Guard(
        "comparing markers as numbers",
        _GAP,
        _SCRIPTS,
        "  local known = tonumber(redis.call('HGET', KEYS[1], ARGV[i]))\n"
        "  if not known or (ARGV[1] == '1' and known < tonumber(ARGV[i + 1])) then",
        "  local known = redis.call('HGET', KEYS[1], ARGV[i])\n"
        "  if not known or (ARGV[1] == '1' and known < ARGV[i + 1]) then",
        (f"{_ON_REDIS}::test_an_offset_is_a_number_not_a_text_when_markers_are_compared",),
    ),
    Guard(
        "renewing an epoch once",
        "2: an order is told once",
        _SCRIPTS,
        "if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then",
        "if true then",
        (f"{_ON_REDIS}::test_only_the_first_of_those_who_saw_an_epoch_renews_it",),
    ),
    Guard(
        "a new epoch for a state that another server held",
        _LOST,
        _SCRIPTS,
        "if held[3] and held[3] ~= server then",
        "if false then",
        (f"{_STORE}::test_a_state_that_another_server_process_held_gets_new_epochs",),
    ),
    Guard(
        "trusting a new connection only after its markers were read",
        _LOST,
        _REDIS,
        "if not self._trusted:",
        "if False:",
        (f"{_STORE}::test_after_a_lost_connection_nothing_is_applied_until_the_positions_were_read",),
    ),
    Guard(
        "sending a lost script again",
        "a SCRIPT FLUSH or a failover costs no payment its features",
        _REDIS,
        "if isinstance(reply, list) and isinstance(reply[0], redis.exceptions.NoScriptError):",
        "if False:",
        (f"{_STORE}::test_a_lost_script_is_sent_again",),
    ),
    Guard(
        "refusing another owner's namespace",
        "2: markers are offsets of one group",
        _REDIS,
        "if owner != self._owner:",
        "if False:",
        (f"{_STORE}::test_a_namespace_of_another_shape_or_owner_is_refused_and_left_alone",),
    ),
    Guard(
        "refusing a namespace of another shape",
        "2: entities lie where they are looked for",
        _REDIS,
        'if held[b"shape"] != self._shape:',
        "if False:",
        (f"{_STORE}::test_a_namespace_of_another_shape_or_owner_is_refused_and_left_alone",),
    ),
    Guard(
        "refusing a Redis that evicts",
        "a store that could lose state is refused",
        "features/redis_store/suitable.py",
        'if policy != "noeviction":',
        "if False:",
        (f"{_STORE}::test_a_server_that_could_lose_state_is_refused",),
    ),
    Guard(
        "refusing a Redis without AOF",
        "a store that could lose state is refused",
        "features/redis_store/suitable.py",
        'if info.get("aof_enabled") != "1":',
        "if False:",
        (f"{_STORE}::test_a_server_that_could_lose_state_is_refused",),
    ),
    Guard(
        "refusing a replica",
        "a store that could hide state is refused",
        "features/redis_store/suitable.py",
        'if info.get("role") != "master":',
        "if False:",
        (f"{_STORE}::test_a_replica_is_refused_and_its_writes_are_an_outage",),
    ),
    Guard(
        "catching up before anything is decided",
        "2: features are those of the whole log",
        _KEEPER,
        "if not self._behind:\n                    self._trust()",
        "if True:\n                    self._trust()",
        (f"{_KEPT}::test_a_lost_state_is_rebuilt_from_the_log_before_features_are_used_again",),
    ),
    Guard(
        "looking at the log again after catching up",
        "2: features are those of the whole log",
        _KEEPER,
        "if not self._behind and self._rounds < ROUNDS:",
        "if False:",
        (f"{_KEPT}::test_what_others_commit_meanwhile_is_caught_up_as_well",),
    ),
    Guard(
        "a new epoch for a state that went back in time",
        _LOST,
        _KEEPER,
        "positions = self._renew(positions)",
        "pass",
        (f"{_BACK}::test_an_older_copy_is_caught_up_with_in_new_epochs",),
    ),
    Guard(
        "renewing once a doubt",
        "2: an order is told once",
        _KEEPER,
        "        self._may_renew = False\n",
        "",
        (f"{_BACK}::test_a_doubt_renews_the_epochs_once_however_often_it_is_looked_into",),
    ),
    Guard(
        "stopping where a record is missing for good",
        _LOST,
        _KEEPER,
        "if self._in_vain >= IRREPARABLE:",
        "if False:",
        (f"{_BACK}::test_a_missing_record_that_catching_up_cannot_bring_back_stops_the_worker",),
    ),
    Guard(
        "journaling what was applied and not told",
        "2: every payment in the state has a published order",
        _KEEPER,
        "self._unsure[source] = min(span.start, self._unsure.get(source, span.start))",
        "pass",
        (
            "tests/test_certify.py::test_what_was_applied_by_the_dead_and_decided_without_the_store_is_journaled_all_the_same",
        ),
    ),
    Guard(
        "journaling where an epoch comes from",
        "2: every payment in the state has a published order",
        _KEEPER,
        "if told:\n            self._journal(told)",
        "if False:\n            self._journal(told)",
        (f"{_BACK}::test_an_older_copy_is_caught_up_with_in_new_epochs",),
    ),
    Guard(
        "the lowest marker of all shards counts",
        _GAP,
        _SURVEY,
        "marker = min(known)",
        "marker = max(known)",
        (f"{_BACK}::test_one_lost_shard_is_rebuilt_and_the_others_are_not_applied_twice",),
    ),
    Guard(
        "catching up in the order of time",
        "2: state equals that of the recorded order",
        _KEEPER,
        "return self._read_ms.get(source, -1), source[0] != self._labels, source",
        "return 0, source[0] != self._labels, source",
        (f"{_BACK}::test_partitions_are_caught_up_in_the_order_of_time",),
    ),
    Guard(
        "refusing a state above the end of the log",
        "a recreated topic is refused",
        _SURVEY,
        "if marker > extent.high:",
        "if False:",
        (f"{_KEPT}::test_a_marker_above_the_end_of_the_log_is_a_recreated_topic",),
    ),
    Guard(
        "refusing a state that knows more as decided than the group",
        "1: nothing is skipped after a reset of offsets",
        _SURVEY,
        "if floor > (committed := _committed(extent)):",
        "if floor < (committed := _committed(extent)) - 10**12:",
        (f"{_BACK}::test_a_single_shard_that_knows_more_as_decided_than_the_group_is_refused",),
    ),
    Guard(
        "refusing history that Kafka no longer holds",
        "2: no record is missing from a log",
        _SURVEY,
        "if marker < committed and not allow_cold_state:",
        "if False:",
        (f"{_KEPT}::test_history_that_kafka_no_longer_holds_is_refused",),
    ),
    Guard(
        "the server's last trace while a rebuild empties it",
        "2: a half-empty state is never taken for history",
        _SCRIPTS,
        "local emptying = redis.call('HGET', KEYS[1], 'emptying')",
        "local emptying = false",
        ("tests/test_redis_reset.py::test_while_it_is_emptied_others_wait_and_once_that_was_given_up_they_say_so",),
    ),
    Guard(
        "what was recorded last is told again",
        "3: each order that was recorded is published",
        "consumer/state.py",
        "        self._tell_again(positions, found.committed)\n",
        "",
        (f"{_BACK}::test_what_a_worker_that_was_killed_did_not_tell_is_told_by_the_next",),
    ),
)
