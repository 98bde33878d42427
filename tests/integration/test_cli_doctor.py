"""``correio doctor``: each broken set-up gets its cause and its remedy."""

import asyncio
import os
import shutil
import sys
from pathlib import Path

import apsw
import pytest

from deploy.local.provide import PrivateBroker
from deploy.local.rabbitmq import USER
from shared.broker import topology
from shared.clock import SystemClock
from shared.store.port import Store
from tests.support import events as ev
from tests.support.cli import CONFIG, Cli, fill, set_up
from worker.events.apply import Applier
from worker.events.arrivals import Arrival


@pytest.fixture
async def correio(tmp_path: Path, broker_url: str, store_url: str) -> Cli:
    await topology.declare(broker_url)
    return set_up(tmp_path, broker_url, store_url)


async def test_a_healthy_set_up(correio: Cli) -> None:
    assert (await correio("doctor"))["healthy"]


async def _fault(correio: Cli, name: str) -> dict[str, str]:
    answer = await correio("doctor", exits=1)
    (fault,) = [one for one in answer["findings"] if not one["ok"] and one["name"] == name]
    assert fault["remedy"]
    return fault


async def test_doctor_names_a_broker_that_is_down(tmp_path: Path, store_url: str) -> None:
    correio = set_up(tmp_path, "amqp://guest:guest@127.0.0.1:1/", store_url)
    assert "start RabbitMQ" in (await _fault(correio, "broker"))["remedy"]


async def test_doctor_names_missing_queues(tmp_path: Path, broker_url: str, store_url: str) -> None:
    fault = await _fault(set_up(tmp_path, broker_url, store_url), "broker")
    assert "correio migrate" in fault["remedy"]


@pytest.mark.timeout(60)
async def test_doctor_names_a_queue_that_the_broker_cannot_start(
    tmp_path: Path, private_broker: PrivateBroker
) -> None:
    await topology.declare(private_broker.url)
    correio = set_up(tmp_path, private_broker.url, f"sqlite:///{tmp_path}/store.db")
    await asyncio.to_thread(private_broker.stop)
    (config,) = (
        one
        for one in private_broker.folder.glob("data/**/quorum/*/*/config")
        if f"_{topology.EVENTS}'" in one.read_text()
    )
    shutil.rmtree(config.parent)
    await asyncio.to_thread(private_broker.start)
    fault = await _fault(correio, "broker")
    assert fault["found"] == "it cannot serve correio.events"
    assert fault["remedy"].startswith("restart the broker once; if that does not help ")
    assert "rabbitmqctl delete_queue" in fault["remedy"]
    await asyncio.to_thread(private_broker.rabbitmqctl, "delete_queue", topology.EVENTS)
    await correio("migrate")
    assert (await correio("doctor"))["healthy"]
    await asyncio.to_thread(private_broker.rabbitmqctl, "set_permissions", USER, "^$", ".*", ".*")
    assert "run the compose service `migrate`" in await correio.text("migrate", exits=1)


async def test_doctor_names_a_store_that_is_not_there(tmp_path: Path, broker_url: str) -> None:
    await topology.declare(broker_url)
    correio = set_up(tmp_path, broker_url, f"sqlite:///{tmp_path}/none.db")
    assert "correio migrate" in (await _fault(correio, "store"))["remedy"]
    correio = set_up(tmp_path, broker_url, "postgresql://127.0.0.1:1/x")
    assert "start PostgreSQL" in (await _fault(correio, "store"))["remedy"]


async def test_doctor_names_a_damaged_store(tmp_path: Path, broker_url: str) -> None:
    await topology.declare(broker_url)
    (tmp_path / "store.db").write_bytes(b"this is no database" * 100)
    correio = set_up(tmp_path, broker_url, f"sqlite:///{tmp_path}/store.db")
    assert "backup" in (await _fault(correio, "store"))["remedy"]


async def test_doctor_names_an_empty_schema(
    tmp_path: Path, broker_url: str, empty_store_url: str
) -> None:
    await topology.declare(broker_url)
    if empty_store_url.startswith("sqlite"):
        apsw.Connection(empty_store_url.removeprefix("sqlite:///")).close()
    fault = await _fault(set_up(tmp_path, broker_url, empty_store_url), "store")
    assert "correio migrate" in fault["remedy"]


async def test_doctor_names_a_configuration_that_cannot_be_read(correio: Cli) -> None:
    correio.path.write_text('[receiver]\nport = "many"\n')
    answer = await correio("doctor", exits=1)
    assert "receiver.port" in answer["findings"][0]["found"]


async def test_doctor_says_which_file_was_read(correio: Cli, tmp_path: Path) -> None:
    assert await _found(correio, "configuration") == f"read from {correio.path}"
    missing = Cli(tmp_path / "none.toml")
    fault = await _fault(missing, "configuration")
    assert fault["found"] == f"{missing.path}: no such file; CORREIO_CONFIG names it"
    assert fault["remedy"].startswith("put the file there, or let CORREIO_CONFIG name another")


async def test_doctor_says_that_no_file_was_read(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "console.cli", "doctor",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2]),
             "CORREIO_BROKER__URL": "amqp://127.0.0.1:1/"},
        cwd=tmp_path, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 1
    assert b"configuration: no file is named and no correio.toml lies in " in out
    assert b"the environment and the defaults hold" in out


async def test_doctor_names_missing_and_unsigned_sources(correio: Cli) -> None:
    text = correio.path.read_text()
    without, _, rest = text.partition("[[source]]")
    correio.path.write_text(without + rest[rest.index("[[endpoint]]") :])
    assert "[[source]]" in (await _fault(correio, "sources"))["remedy"]
    correio.path.write_text(text.replace("[[source]]", "[[source]]\nrequire_signature = false"))
    assert "require_signature" in (await _fault(correio, "sources"))["remedy"]
    correio.path.write_text(text[: text.index("[[endpoint]]")])
    assert "[[endpoint]]" in (await _fault(correio, "endpoints"))["remedy"]


@pytest.mark.parametrize(
    ("old", "new", "name", "said"),
    [
        ('partner_app_ids = ["', 'allowed_networks = ["10.0.0.1/8"]\n', "sources",
         "source klavi: allowed_networks: 10.0.0.1/8 has host bits set"),
        ("[receiver]", '[receiver]\ntrusted_proxies = ["proxy"]', "sources",
         "receiver.trusted_proxies"),
        ('url = "http://127.0.0.1:9/"', 'url = "crm"', "endpoints",
         "endpoint crm: url must begin with http:// or https://"),
        ('"whsec_c2VjcmV0', '"c2VjcmV0', "endpoints",
         "endpoint crm: secrets: a secret starts with whsec_"),
        ('id = "crm"', 'id = "crm"\ntypes = ["consent.authorized"]', "endpoints",
         "endpoint crm: types: nothing is of type 'consent.authorized'; types are link.created"),
    ],
)  # fmt: skip
async def test_doctor_names_values_that_only_one_kind_of_process_would_refuse(
    correio: Cli, old: str, new: str, name: str, said: str
) -> None:
    text = correio.path.read_text()
    assert old in text
    if old.endswith('["'):
        line = next(one for one in text.splitlines() if one.startswith(old))
        old = f"{line}\n"
    correio.path.write_text(text.replace(old, new))
    fault = await _fault(correio, name)
    assert said in fault["found"]
    assert "mend the field named" in fault["remedy"]


async def test_doctor_names_a_damaged_spool(correio: Cli) -> None:
    (correio.path.parent / "spool" / "damaged-1.db").touch()
    assert "damaged" in (await _fault(correio, "disk"))["found"]


async def test_doctor_tells_a_spool_that_is_elsewhere_from_one_that_cannot_be_read(
    correio: Cli,
) -> None:
    folder = correio.path.parent / "spool"
    assert await _found(correio, "spool") == f"0 events in {folder}"
    (folder / "spool-1.db").write_bytes(b"this is no database" * 100)
    assert "Spool damaged" in (await _fault(correio, "spool"))["remedy"]
    shutil.rmtree(folder)
    assert f"not read: there is no folder {folder} here" in await _found(correio, "spool")


async def _found(correio: Cli, name: str) -> str:
    answer = await correio("doctor")
    assert answer["healthy"]
    (found,) = [one["found"] for one in answer["findings"] if one["name"] == name]
    return str(found)


async def test_doctor_names_a_wrong_clock(
    correio: Cli, store: Store, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, hour = SystemClock().now(), 3_600_000
    applier = Applier(store, CONFIG, clock=SystemClock())
    body = ev.dump(ev.event("link_created", at=1))
    await applier.apply([Arrival(body, "klavi", "b", now)])
    assert (await correio("doctor"))["healthy"]
    monkeypatch.setattr(SystemClock, "now", lambda _: now - hour)
    assert "chrony" in (await _fault(correio, "clock"))["remedy"]
    monkeypatch.setattr(SystemClock, "now", lambda _: now + hour)
    if store_url.startswith("sqlite"):  # there is no other clock to compare it with
        assert (await correio("doctor"))["healthy"]
    else:
        assert "chrony" in (await _fault(correio, "clock"))["remedy"]


async def test_the_doctor_tells_when_the_keys_were_not_restored(correio: Cli, store: Store) -> None:
    await fill(store)
    await store.change([("DELETE FROM data_keys", ())])
    assert "restore the keys" in (await _fault(correio, "sealing"))["remedy"]
