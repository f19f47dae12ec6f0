"""Checks that all run, in bounded time; and what the doctor concludes from what it is told, without any service."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.cli import exit_status
from consumer.cli_doctor import lines_of
from consumer.doctor import environment, topics
from consumer.group_lag import GroupLag, Member, PartitionLag
from consumer.kafka.examine import addresses
from consumer.kafka.logreader import Extent
from consumer.kafka.topics import Topics
from consumer.settings import DashboardSettings, ModelSettings, Settings, TelemetrySettings, load
from consumer.telemetry import Health, Telemetry, serve
from consumer.topic_plan import Found
from features.catalog import DAY_MS, DEFAULT
from features.checkup import Check, Finding, Status, Verdict, bad, doubtful, examine, good, left_out, reached, worst
from features.errors import ConfigError
from features.redis_store import Tls
from features.redis_store.examine import ROUNDS, RedisExamination
from features.store import Position
from tests.services.process import free_ports

SECRET = "4111111111111111"


def check(name: str, verdict: Verdict, *needs: str) -> Check:
    return Check(name, lambda: verdict, "mend it", needs)


def test_what_depends_is_skipped_and_the_rest_runs() -> None:
    found = {
        each.check: each
        for each in examine(
            [
                check("a.1", bad("broken", "mend")),
                check("a.2", good("fine"), "a.1"),
                check("a.3", good("fine"), "a.2"),
                check("b.1", doubtful("so so", "mend")),
                check("b.2", good("fine"), "b.1"),
                check("c.1", left_out("off")),
                check("c.2", good("fine"), "c.1"),
            ]
        )
    }
    assert {name: each.status for name, each in found.items()} == {
        "a.1": "fail", "a.2": "skip", "a.3": "skip", "b.1": "warn", "b.2": "pass", "c.1": "skip", "c.2": "skip",
    }  # fmt: skip
    assert {found[name].seen for name in ("a.2", "a.3")} == {"not looked at, since a.1 is not well"}


def test_an_error_is_a_failure_with_its_mend_and_no_foreign_text() -> None:
    def ours() -> NoReturn:
        raise ConfigError("That is wrong.")

    def foreign() -> NoReturn:
        raise ValueError(SECRET)

    one, two = examine([Check("a.1", ours, "mend it"), Check("a.2", foreign, "mend it")])
    assert (one.status, one.seen, one.mend) == ("fail", "That is wrong", "mend it")
    assert two.status == "fail"
    assert SECRET not in two.seen + two.mend
    assert "ValueError" in two.seen


def test_what_hangs_is_given_up() -> None:
    forever = threading.Event()

    def hangs() -> Verdict:
        forever.wait()
        return good("late")

    one, two = examine([Check("a.1", hangs, "mend it", limit_s=0.05), check("a.2", good("fine"))])
    forever.set()
    assert (one.status, one.mend) == ("fail", "mend it")
    assert two.status == "pass"


statuses: st.SearchStrategy[Status] = st.sampled_from(["pass", "warn", "fail", "skip"])


@given(st.lists(statuses, min_size=1))
def test_one_verdict_of_several_is_as_bad_as_the_worst(given_statuses: list[Status]) -> None:
    order = ["fail", "warn", "pass", "skip"]
    of_all = worst([Verdict(status, status) for status in given_statuses])
    assert of_all.status == min(given_statuses, key=order.index)
    assert of_all.seen == of_all.status  # the same thing is said once


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a:1,b:2", [("a", 1), ("b", 2)]),
        ("a", [("a", 9092)]),
        ("[::1]:9", [("::1", 9)]),
        ("::1", [("::1", 9092)]),
        ("PLAINTEXT://a:1", [("a", 1)]),
    ],
)
def test_addresses_of_brokers(text: str, found: list[tuple[str, int]]) -> None:
    assert addresses(text) == found


def test_why_an_address_is_not_reached() -> None:
    assert "refused" in str(reached("127.0.0.1", free_ports(1)[0], 1.0))
    assert "name is not known" in str(reached("no.such.host.invalid", 1, 1.0))
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert reached("127.0.0.1", server.getsockname()[1], 1.0) is None


def lag(*partitions: PartitionLag, members: int = 1, missing: tuple[str, ...] = ()) -> GroupLag:
    owners = [
        Member(f"m{n}", f"c{n}", "h", frozenset((each.topic, each.partition) for each in partitions[n :: members or 1]))
        for n in range(members)
    ]
    return GroupLag("g", "stable" if members else "empty", owners, partitions, missing)


def at(
    committed: int | None, *, low: int = 0, end: int = 9, number: int = 0, next_ms: int | None = None
) -> PartitionLag:
    return PartitionLag("payments", number, low, end, committed, next_ms=next_ms, newest_ms=next_ms)


@pytest.mark.parametrize(
    ("found", "status", "part"),
    [
        (lag(at(9)), "pass", "0 offsets and 0.0 s behind"),
        (lag(at(3, next_ms=90_000)), "pass", "6 offsets and 10.0 s behind"),
        (lag(at(3, next_ms=1_000)), "warn", "99.0 s behind"),
        (lag(at(None)), "pass", "decided nothing yet"),
        (lag(at(3, low=5)), "fail", "payments/0 were deleted before they were decided"),
        (lag(at(12)), "fail", "stands above the end of payments/0"),
        (lag(missing=("payments",)), "skip", "no topic payments"),
    ],
)
def test_where_the_group_stands(found: GroupLag, status: str, part: str) -> None:
    verdict = topics.group(found, 100_000.0)
    assert verdict.status == status
    assert part in verdict.seen


@pytest.mark.parametrize(
    ("partitions", "members", "status"), [(3, 2, "pass"), (2, 3, "warn"), (0, 0, "skip"), (1, 0, "pass")]
)
def test_partitions_for_processors(partitions: int, members: int, status: str) -> None:
    found = lag(*(at(0, number=number) for number in range(partitions)), members=members)
    assert topics.partitions(found, "payments").status == status


def test_a_processor_of_labels_only_is_noticed() -> None:
    found = lag(at(0), PartitionLag("labels", 0, 0, 0, 0), members=2)
    verdict = topics.partitions(
        GroupLag("g", "stable", found.members, [*found.partitions, at(0, number=1)]), "payments"
    )
    assert verdict.status == "warn"
    assert "c1" in verdict.seen


def test_who_reads_what_is_not_judged_while_it_is_shared_out() -> None:
    joined = Member("m", "c", "h", frozenset())
    verdict = topics.partitions(GroupLag("g", "preparing rebalancing", [joined], [at(0)]), "payments")
    assert verdict.status == "skip"


class Slow(socketserver.StreamRequestHandler):
    """A Redis that takes its time."""

    def handle(self) -> None:
        while line := self.rfile.readline():
            for _ in range(2 * int(line[1:])):
                self.rfile.readline()
            time.sleep(0.01)
            self.wfile.write(b"+OK\r\n")


def test_a_slow_redis_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that is given up still has the connection, on which the next one would read its answers."""
    monkeypatch.setattr("features.redis_store.examine.LATENCY_LIMIT_S", 0.05)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Slow) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        examination = RedisExamination(
            f"redis://127.0.0.1:{server.server_address[1]}/0",
            namespace="n",
            timeout_ms=5,
            owner="o",
            catalog=lambda: DEFAULT,
            shards=1,
            cluster=False,
            tls=Tls(),
        )
        with closing(examination):
            verdict = examination.latency()
        server.shutdown()
    assert verdict.status == "fail"
    assert int(verdict.seen.split()[0]) < ROUNDS


def test_foreign_text_steers_no_terminal() -> None:
    """Others chose what a namespace's owner or a member is called."""
    shown = lines_of(Finding("redis.namespace", "fail", "that of \x1b[2Jnobody", "mend \x07it"))
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "nobody" in shown


SOURCE = ("payments", 0)


def state(marker: int | None, floor: int = 0) -> Position:
    return Position(7, {} if marker is None else {SOURCE: marker}, {SOURCE: floor} if floor else {})


@pytest.mark.parametrize(
    ("extent", "shards", "status", "part"),
    [
        (Extent(0, 9, None), [state(None)], "skip", "no state yet"),
        (Extent(0, 9, 5), [state(5)], "pass", "everything"),
        (Extent(0, 9, 5), [state(5), state(2)], "warn", "lacks 3 decided offsets"),
        (Extent(0, 9, 5), [state(5), state(None)], "warn", "lacks 5 decided offsets"),  # a shard was lost
        (Extent(0, 9, 5), [state(None)], "warn", "lacks 5 decided offsets"),  # Redis was emptied
        (Extent(4, 9, 5), [state(2)], "fail", "history is lost"),
        (Extent(0, 9, 5), [state(10)], "fail", "was recreated"),
        (Extent(0, 9, 5), [state(7, floor=7)], "fail", "its offsets were reset"),
    ],
)
def test_the_state_against_the_log(extent: Extent, shards: list[Position], status: str, part: str) -> None:
    verdict = topics.markers({SOURCE: extent}, shards, allow_cold_state=False)
    assert verdict.status == status
    assert part in verdict.seen
    assert bool(verdict.mend) == (status in {"warn", "fail"})


def test_history_that_may_be_missing_is_no_failure() -> None:
    verdict = topics.markers({SOURCE: Extent(4, 9, 5)}, [state(2)], allow_cold_state=True)
    assert verdict.status == "warn"


@dataclass
class Brokers:
    """Answers as the brokers do that have these topics."""

    found: dict[str, Found]

    def look(self, _names: Sequence[str]) -> Topics:
        return Topics(3, self.found)


@pytest.mark.parametrize(
    ("days", "leaderless", "status", "part"),
    [
        (45, (), "pass", "right settings"),
        (40, (), "warn", "retention.ms"),  # less of an outage is the operator's choice
        (30, (), "fail", "retention.ms"),
        (45, (1,), "fail", "nobody leads partition 1 of payments"),
        (30, (1,), "fail", "nobody leads partition 1 of payments"),
    ],
)
def test_a_topic_as_it_has_to_be(days: int, leaderless: tuple[int, ...], status: str, part: str) -> None:
    settings = {"retention.ms": str(days * DAY_MS), "cleanup.policy": "delete"}
    there = Brokers({"payments": Found(2, 3, 3, settings, leaderless)})
    verdict = topics.topic(there, Settings(), DEFAULT, "payments")
    assert verdict.status == status
    assert part in verdict.seen


@pytest.mark.parametrize(
    ("newest_ms", "status"), [(None, "skip"), (99_000, "pass"), (100_500, "pass"), (160_000, "warn")]
)
def test_a_broker_can_not_be_ahead_of_now(newest_ms: int | None, status: str) -> None:
    assert topics.clock(lag(at(0, next_ms=newest_ms)), "payments", 100_000.0).status == status


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "skip"),
        ({"auth": "none"}, "pass"),
        ({"auth": "none", "host": "0.0.0.0"}, "fail"),
        ({"token": "a-token-of-enough-characters", "host": "0.0.0.0"}, "pass"),
        ({"auth": "proxy", "trusted_proxies": ("10.0.0.0/24",)}, "pass"),
        ({"auth": "proxy", "trusted_proxies": ("0.0.0.0/0",)}, "warn"),
    ],
)
def test_who_is_let_in_to_the_page(changes: dict[str, object], status: str) -> None:
    settings = Settings(dashboard=DashboardSettings.model_validate(changes))
    verdict = environment.dashboard(settings)
    assert verdict.status == status
    assert "a-token" not in verdict.seen + verdict.mend


def cgroup(folder: Path, quota: str, stat: str = "") -> Path:
    (folder / "cpu.max").write_text(quota)
    (folder / "cpu.stat").write_text(stat)
    return folder


@pytest.mark.parametrize(
    ("quota", "stat", "threads", "status"),
    [
        ("max 100000", "", 1, "pass"),
        ("100000 100000", "nr_periods 100\nnr_throttled 1", 1, "pass"),
        ("50000 100000", "", 1, "warn"),
        ("100000 100000", "nr_periods 100\nnr_throttled 30", 1, "warn"),
        ("100000 100000", "", 2, "warn"),
        ("", "", 256, "warn"),
    ],
)
def test_threads_against_cores(tmp_path: Path, quota: str, stat: str, threads: int, status: str) -> None:
    settings = Settings(model=ModelSettings(threads=threads))
    assert environment.cpu(settings, cgroup(tmp_path, quota, stat)).status == status


@pytest.mark.parametrize(("limit", "status"), [(256, "warn"), (1_024, "pass"), (-1, "pass")])
def test_how_many_files_may_be_open(limit: int, status: str) -> None:
    assert environment.files(limit).status == status


def test_the_port_is_free_served_or_taken() -> None:
    health = Health()
    health.ready(True, "ready")
    with closing(serve(Telemetry(), health, "127.0.0.1", 0)) as server:
        served = environment.telemetry(Settings(telemetry=TelemetrySettings(port=server.port)))
    assert served.status == "pass"
    assert served.seen.endswith("says: ready")
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0)
        settings = Settings(telemetry=TelemetrySettings(port=other.getsockname()[1]))
        assert environment.telemetry(settings).status == "fail"
    assert environment.telemetry(Settings(telemetry=TelemetrySettings(port=free_ports(1)[0]))).status == "pass"
    assert environment.telemetry(Settings(telemetry=TelemetrySettings(port=0))).status == "pass"


@pytest.mark.parametrize(("mode", "status"), [(0o600, "pass"), (0o640, "pass"), (0o644, "warn"), (0o666, "fail")])
def test_who_may_read_the_files_of_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, status: str
) -> None:
    url = tmp_path / "url"
    url.write_text(f"redis://:{SECRET}@localhost:6379/0")
    url.chmod(mode)
    monkeypatch.setenv("FRAUDLINE_STORE__URL_FILE", str(url))
    verdict = environment.secret_files(load())
    assert verdict.status == status
    assert SECRET not in verdict.seen + verdict.mend


def test_a_settings_file_counts_if_a_secret_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('[store]\nnamespace = "n"\n')
    file.chmod(0o644)
    assert environment.secret_files(load(file)).status == "pass"
    file.write_text('[store]\nurl = "redis://localhost:6379/0"\n')
    assert environment.secret_files(load(file)).status == "warn"


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"kafka": {"transaction_timeout_ms": 60_000}}, "transaction_timeout_ms"),
        ({"store": {"timeout_ms": 190}}, "store.timeout_ms"),
        ({"challenger": {"enabled": True}}, "challenger.enabled"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, object], part: str) -> None:
    assert environment.sense(Settings()).status == "pass"
    verdict = environment.sense(Settings.model_validate(changes))
    assert verdict.status == "warn"
    assert part in verdict.seen


def test_without_settings_all_that_rests_on_them_is_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FRAUDLINE_KAFKA__BROKER", "localhost")
    assert exit_status(["doctor", "--json"]) == 1
    found = {each["check"]: each for each in json.loads(capsys.readouterr().out)}
    assert found["settings.load"]["status"] == "fail"
    assert "FRAUDLINE_KAFKA__BROKER is not a setting" in found["settings.load"]["seen"]
    assert found["settings.load"]["mend"]
    looked_at = {name for name, each in found.items() if each["status"] != "skip"}
    assert looked_at == {"settings.load", "machine.files"}
