"""Canary card numbers and secrets run through everything; they are found in no log, metric, error, header or page.

What a dead letter holds is the record itself, by design: its headers are looked at, and its value is not.
"""

from __future__ import annotations

import base64
import http.client
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import structlog
from confluent_kafka import Producer

from consumer import logs
from consumer.cli import exit_status
from consumer.settings import describe, load
from features.errors import FraudlineError
from models.bundle import Bundle
from tests.poison import VALID, payment
from tests.services.kafka_secure import PASSWORD, SECRET, USER, SecureKafkaBroker, binding
from tests.services.reader import ReadCommitted
from tests.services.redis import RedisServer
from tests.support.bundles import make_bundle
from tests.support.canaries import CARD_NUMBERS, leaks
from tests.support.page import alert, served

ROOT = Path(__file__).parents[1]
DEADLINE_S = 60.0
COMMAND = (sys.executable, "-c", "from consumer.cli import main; main()")
REDIS_PASSWORD = "redis-Zq9canary"
TOKEN = "token-Zq9canary-0123456789"
WRONG = "wrong-Zq9canary"
SECRETS = (PASSWORD, SECRET, REDIS_PASSWORD, TOKEN, WRONG)
PAN, OTHER, AMEX, LAST = CARD_NUMBERS
SPACED = " ".join(PAN[at : at + 4] for at in range(0, 16, 4))


def hostile() -> list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]]:
    """Keys, values and headers with card numbers in every place."""
    pan = PAN.encode()
    bad: list[bytes | None] = [
        payment(card_id=PAN),
        payment(card_id=SPACED),
        payment(card_id=AMEX),
        payment(currency=OTHER),
        payment(amount_minor=PAN),
        payment(event_time=int(PAN)),
        payment(channel=PAN * 3),
        payment(mcc=LAST),
        payment()[:-1] + b',"' + pan + b'":' + pan + b'"',
        b'{"card":"' + pan + b'"',
        b'{"event_id":"' + pan,
        pan,
        b"\xff" + pan,
        pan + b"x" * 70_000,
    ]
    good: list[bytes | None] = [
        payment(event_id=f"evt-{name}", card_id=f"tok_{name}", **{name: PAN}, amount_minor=90_000_000)
        for name in ("merchant_id", "device_id", "terminal_id", "account_id", "note")
    ]
    keyed = [(pan, value, [("card", pan), (PAN, b"x"), ("authorization", SECRET.encode())]) for value in bad + good]
    return [*keyed, (None, None, [("card", pan)])]


@dataclass(slots=True)
class Told:
    """All that a process has said, with where it said it."""

    texts: dict[str, str] = field(default_factory=dict)

    def add(self, where: str, text: str) -> None:
        self.texts[where] = self.texts.get(where, "") + text

    def leaks(self) -> dict[str, list[str]]:
        return {where: found for where, text in self.texts.items() if (found := leaks(text, SECRETS))}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("canary") / "bundle")


@pytest.fixture
def guarded_redis(redis_server: RedisServer) -> Iterator[str]:
    """The address of a user with a password."""
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", "canary", "reset", "on", f">{REDIS_PASSWORD}", "~*", "+@all")
    yield redis_server.url.replace("redis://", f"redis://canary:{REDIS_PASSWORD}@")
    with redis_server.client() as client:
        client.acl_deluser("canary")


@dataclass(slots=True)
class Plant:
    """A deployment behind passwords, whose every word is kept."""

    broker: SecureKafkaBroker
    topics: dict[str, str]
    environment: dict[str, str]
    told: Told = field(default_factory=Told)

    def start(self, *arguments: str, **changes: str) -> subprocess.Popen[str]:
        environment = {name: value for name, value in (self.environment | changes).items() if value}
        return subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def run(self, *arguments: str, **changes: str) -> tuple[int, str]:
        process = self.start(*arguments, **changes)
        out, err = process.communicate(timeout=DEADLINE_S)
        self.told.add(" ".join(arguments), out + err)
        return process.returncode, err


@pytest.fixture
def plant(secure_kafka: SecureKafkaBroker, guarded_redis: str, bundle: Bundle, unique: str) -> Iterator[Plant]:
    roles = ("payments", "labels", "decisions", "alerts", "dead_letters", "journal", "lists")
    topics = {role: f"{unique}.{role}" for role in roles}
    secure_kafka.create_topics(dict.fromkeys(topics.values(), 1))
    everything = [
        binding("topic", unique, "all", prefixed=True),
        binding("group", unique, "all", prefixed=True),
        binding("transactional-id", unique, "all", prefixed=True),
    ]
    secure_kafka.allow(everything)
    settings = {
        "KAFKA__BROKERS": secure_kafka.brokers["sasl"],
        "KAFKA__GROUP_ID": unique,
        "KAFKA__SECURITY_PROTOCOL": "sasl_ssl",
        "KAFKA__SASL_MECHANISM": "SCRAM-SHA-512",
        "KAFKA__SASL_USERNAME": USER,
        "KAFKA__SASL_PASSWORD": PASSWORD,
        "KAFKA__SSL_CA_FILE": str(secure_kafka.ca_file),
        "KAFKA__REQUEST_TIMEOUT_MS": "5000",
        "STORE__URL": guarded_redis,
        "STORE__NAMESPACE": unique,
        "STORE__TIMEOUT_MS": "1000",
        "MODEL__BUNDLE": str(bundle.path),
        "TELEMETRY__PORT": "0",
        "TELEMETRY__LOG_LEVEL": "debug",
        "PROCESSING__BUDGET_MS": "5000",
        "DASHBOARD__TOKEN": TOKEN,
        **{f"TOPICS__{role.upper()}": topic for role, topic in topics.items()},
    }
    outside = {name: value for name, value in os.environ.items() if not name.startswith("FRAUDLINE_")}
    environment = outside | {f"FRAUDLINE_{name}": value for name, value in settings.items()}
    yield Plant(secure_kafka, topics, environment)
    secure_kafka.forbid(everything)


def ask(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return f"{answer.getheaders()} {answer.read().decode()}"
    finally:
        connection.close()


@pytest.mark.faults
@pytest.mark.parametrize("way", ["SCRAM-SHA-512", "OAUTHBEARER"])
def test_a_processor_says_nothing_of_what_it_reads_or_comes_in_by(plant: Plant, way: str) -> None:
    """Debug logs, metrics, probes, dead letters' headers, the command line: all of a processor's life."""
    records = hostile()
    changes = {} if way.startswith("SCRAM") else oauth(plant.broker, SECRET)
    process = plant.start("run", **changes)
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if '"event": "started"' in line:
            break
    assert lines, "it did not start"
    port = json.loads(lines[-1])["port"] if lines[-1].startswith("{") else pytest.fail("".join(lines))
    outputs = [plant.topics[role] for role in ("decisions", "alerts", "dead_letters")]
    with ReadCommitted(plant.broker.bootstrap, outputs) as reader:
        producer = Producer({"bootstrap.servers": plant.broker.bootstrap, "log_level": 0})
        for key, value, headers in records:
            producer.produce(plant.topics["payments"], value, key, headers=headers)
            producer.produce(plant.topics["labels"], value, key, headers=headers)
        assert producer.flush(DEADLINE_S) == 0
        producer.close()
        outcomes = {plant.topics["decisions"], plant.topics["dead_letters"]}
        reader.wait_until(lambda seen: sum(r.topic in outcomes for r in seen) >= 2 * len(records), DEADLINE_S)
        seen = reader.read_to_end(DEADLINE_S)
    for path in ("/metrics", "/readyz", "/livez", "/drift", f"/nothing?card={PAN}"):
        plant.told.add(path, ask(port, path))
    plant.told.add("command line", Path(f"/proc/{process.pid}/cmdline").read_text())
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=DEADLINE_S)
    plant.told.add("logs", "".join(lines) + out + err)
    letters = [record for record in seen if record.topic == plant.topics["dead_letters"]]
    assert len(letters) > len(records), "the bad ones, and all the labels, which are none"
    for letter in letters:
        own = [(name, value) for name, value in letter.headers if name.startswith("__connect.errors")]
        assert own
        plant.told.add("headers of a dead letter", repr(own))
    assert process.returncode == 0, err
    assert not plant.told.leaks()


def oauth(broker: SecureKafkaBroker, secret: str) -> dict[str, str]:
    """What comes in by tokens, in place of a password."""
    names = {
        "SASL_MECHANISM": "OAUTHBEARER",
        "SASL_USERNAME": "",
        "SASL_PASSWORD": "",
        "SASL_OAUTH_TOKEN_URL": broker.tokens.url,
        "SASL_OAUTH_CLIENT_ID": USER,
        "SASL_OAUTH_CLIENT_SECRET": secret,
        "SASL_OAUTH_CA_FILE": str(broker.ca_file),
    }
    return {f"FRAUDLINE_KAFKA__{name}": value for name, value in names.items()}


def wrong_password(_plant: Plant) -> dict[str, str]:
    return {"FRAUDLINE_KAFKA__SASL_PASSWORD": WRONG}


def wrong_plain_password(_plant: Plant) -> dict[str, str]:
    return {"FRAUDLINE_KAFKA__SASL_PASSWORD": WRONG, "FRAUDLINE_KAFKA__SASL_MECHANISM": "PLAIN"}


def wrong_secret(plant: Plant) -> dict[str, str]:
    """The endpoint of the tests quotes it in its answer, and the client's error quotes the answer."""
    return oauth(plant.broker, WRONG)


def wrong_redis(plant: Plant) -> dict[str, str]:
    return {"FRAUDLINE_STORE__URL": plant.environment["FRAUDLINE_STORE__URL"].replace(REDIS_PASSWORD, WRONG)}


def password_in_a_query(plant: Plant) -> dict[str, str]:
    return {"FRAUDLINE_STORE__URL": plant.environment["FRAUDLINE_STORE__URL"] + f"?password={WRONG}&nonsense={WRONG}"}


def bad_settings(_plant: Plant) -> dict[str, str]:
    return {"FRAUDLINE_DASHBOARD__TOKEN": WRONG[:9], "FRAUDLINE_MODEL__DEVICE": "abacus"}


def token_in_the_address(plant: Plant) -> dict[str, str]:
    url = plant.broker.tokens.url.replace("https://", f"https://{USER}:{WRONG}@")
    return oauth(plant.broker, SECRET) | {"FRAUDLINE_KAFKA__SASL_OAUTH_TOKEN_URL": url}


@pytest.mark.faults
@pytest.mark.parametrize(
    "mistake",
    [
        wrong_password,
        wrong_plain_password,
        wrong_secret,
        wrong_redis,
        password_in_a_query,
        bad_settings,
        token_in_the_address,
    ],
)
def test_a_processor_that_is_kept_out_does_not_say_by_what(
    plant: Plant, mistake: Callable[[Plant], dict[str, str]]
) -> None:
    status, err = plant.run("run", **mistake(plant))
    assert status in {1, 2}, err
    assert not plant.told.leaks()
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "command",
    [
        ("config", "show"),
        ("config", "show", "--json"),
        ("state", "verify", "--sample", "1"),
        ("certify", "--decisions", "DECISIONS", "--payments", "PAYMENTS", "--bundle", "BUNDLE"),
        ("lag",),
        ("topics", "plan"),
        ("doctor",),
        ("dlq", "list"),
        ("dlq", "show"),
    ],
    ids=" ".join,
)
def test_commands_say_nothing_of_secrets_and_records(plant: Plant, command: tuple[str, ...]) -> None:
    """With a dead letter of each kind that a processor would have written."""
    producer = Producer({"bootstrap.servers": plant.broker.bootstrap, "log_level": 0})
    for key, value, headers in hostile():
        for role in ("payments", "dead_letters", "decisions"):
            producer.produce(plant.topics[role], value, key, headers=headers)
    assert producer.flush(DEADLINE_S) == 0
    producer.close()
    places = {"DECISIONS": plant.topics["decisions"], "PAYMENTS": plant.topics["payments"]}
    places["BUNDLE"] = plant.environment["FRAUDLINE_MODEL__BUNDLE"]
    plant.run(*(places.get(word, word) for word in command))
    assert not plant.told.leaks()


class TestFiles:
    """Commands on files, in this process."""

    @pytest.fixture
    def history(self, tmp_path: Path) -> Path:
        lines = [value.replace(b"\n", b" ") for _, value, _ in hostile() if value is not None and len(value) < 60_000]
        path = tmp_path / "payments.jsonl"
        path.write_bytes(b"\n".join(lines) + b"\n")
        return path

    @pytest.mark.parametrize("skip", [True, False])
    def test_scoring_and_features(
        self, bundle: Bundle, history: Path, tmp_path: Path, skip: bool, capfd: pytest.CaptureFixture[str]
    ) -> None:
        more = ["--skip-bad"] if skip else []
        given = ["--payments", str(history), "--out"]
        score, build = ["score", "--bundle", str(bundle.path), *given], ["features", "build", *given]
        exit_status([*score, str(tmp_path / "d.jsonl"), *more])
        exit_status([*build, str(tmp_path / "f.parquet"), *more])
        page, report = tmp_path / "b.html", ["backtest", *given[:-1], "--variant", f"a={bundle.path}"]
        exit_status([*report, "--out", str(page), "--resamples", "0", *more])
        told = capfd.readouterr()
        assert told.out + told.err
        assert not leaks(told.out + told.err)
        if page.exists():
            assert not leaks(page.read_text())

    def test_lines(self, bundle: Bundle, history: Path) -> None:
        done = subprocess.run(
            [*COMMAND, "score", "--bundle", str(bundle.path)],
            cwd=ROOT,
            input=history.read_bytes(),
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0
        assert not leaks(done.stderr.decode())

    def test_lists(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert exit_status(["lists", "add", "deny", "card", PAN]) != 0
        assert exit_status(["policy", "lists", "add", "deny", "card", PAN]) != 0
        assert not leaks(capfd.readouterr().err)


class TestPage:
    def test_no_card_number_is_shown(self) -> None:
        names = dict.fromkeys(("merchant_id", "device_id", "account_id"), PAN)
        with served() as page:
            page.show(alert("e-1", **names))
            page.tail.feed("alerts", alert("e-2", card_id=PAN), b'{"card_id":"' + PAN.encode() + b'"}', PAN.encode())
            page.show(alert("e-3"))
            port = int(page.address.rpartition(":")[2].strip("/"))
            told = [
                ask(port, path) for path in ("/", "/api/alerts", "/api/payment?event_id=e-1", "/metrics", f"/{PAN}")
            ]
        assert [("************5556" in text) for text in told] == [False, True, True, False, False]
        assert not leaks("".join(told))

    @pytest.mark.parametrize("given", [TOKEN, WRONG])
    def test_no_token_is_shown(self, given: str) -> None:
        stream = StringIO()
        logs.configure("debug", "json", stream)
        with served(auth="token", token=TOKEN) as page:
            port = int(page.address.rpartition(":")[2].strip("/"))
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", f"/?token={given}", headers={"Authorization": f"Bearer {given}"})
            answer = connection.getresponse()
            body = answer.read().decode()
            connection.close()
        assert not leaks(stream.getvalue() + body, SECRETS)


@pytest.mark.parametrize("number", CARD_NUMBERS)
def test_a_planted_card_number_is_found_in_every_guise(number: str) -> None:
    """What looks for leaks would find one."""
    for text in (number, " ".join(number), f"{number[:4]}-{number[4:]}", f'"pan":{number}', f"x{number}x"):
        assert leaks(f"a line with {text} in it") == [number]
    assert not leaks(number[:-1])


@pytest.mark.parametrize("secret", SECRETS)
def test_a_planted_secret_is_found_in_every_guise(secret: str) -> None:
    for text in (secret, quote(secret), base64.b64encode(secret.encode()).decode(), json.dumps(secret)):
        assert leaks(f"a line with {text} in it", SECRETS) == [secret]


def test_a_leak_in_a_log_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same line, with the last line of defence and without it."""
    for is_guarded in (True, False):
        stream = StringIO()
        if not is_guarded:
            monkeypatch.setattr(logs, "redact", lambda _logger, _method, event: event)
        logs.configure("debug", "json", stream)
        structlog.get_logger("canary").info("read", note=f"card {PAN}", password=PASSWORD)
        logging.getLogger("librdkafka").error("token %s", PAN)
        assert bool(leaks(stream.getvalue(), SECRETS)) != is_guarded


@pytest.mark.parametrize("configure", [logs.configure, logs.configure_command])
def test_what_a_token_endpoint_answers_is_not_logged(
    configure: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    configure()
    client = logging.getLogger(logs.CLIENT)
    body = f'{{"error_description": "{WRONG} is unknown"}}'
    client.error("OIDC [%s]: %s", "x", f'Failed to retrieve OIDC token from "https://idp/token": {body}')
    client.error(f"Failed to acquire SASL OAUTHBEARER token: {body}")
    told = capfd.readouterr().err
    assert "Failed to retrieve OIDC token" in told
    assert "Failed to acquire SASL OAUTHBEARER token" in told
    assert not leaks(told, SECRETS)


def test_settings_show_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    given = {
        "KAFKA__SECURITY_PROTOCOL": "sasl_ssl",
        "KAFKA__SASL_MECHANISM": "OAUTHBEARER",
        "KAFKA__SASL_OAUTH_TOKEN_URL": "https://idp.example/token",
        "KAFKA__SASL_OAUTH_CLIENT_ID": USER,
        "KAFKA__SASL_OAUTH_CLIENT_SECRET_FILE": str(secret),
        "STORE__URL": f"rediss://u:{REDIS_PASSWORD}@redis:6379/0",
        "DASHBOARD__TOKEN": TOKEN,
    }
    for name, value in given.items():
        monkeypatch.setenv(f"FRAUDLINE_{name}", value)
    loaded: Any = load()
    texts = [repr(loaded), str(loaded), loaded.model_dump_json(), json.dumps(describe(loaded)), repr(loaded.store)]
    assert not leaks("".join(texts), SECRETS)
    monkeypatch.setenv("FRAUDLINE_MODEL__DEVICE", "abacus")
    with pytest.raises(FraudlineError) as caught:
        load()
    assert not leaks(str(caught.value), SECRETS)


def test_the_payments_that_are_sent_are_what_they_should_be() -> None:
    """Most of the hostile ones are valid but for the card number."""
    assert VALID["card_id"].startswith("tok_")
    assert all(leaks(f"{key!r} {value!r} {headers!r}") for key, value, headers in hostile())
