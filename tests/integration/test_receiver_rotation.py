"""Secrets are exchanged under load without one refusal."""

import asyncio
import signal
from pathlib import Path

from receiver.signature import sign
from tests.support.http import SECRET, connected, request
from tests.support.receiver import Spawned, spawned, until

BODY = b'[{"eventId":"e"}]'


def configure(folder: Path, *secrets: str) -> None:
    listed = ", ".join(f'"{secret}"' for secret in secrets)
    text = f'[[source]]\nname = "klavi"\nsecrets = [{listed}]\n'
    (folder / "correio.toml").write_text(text, encoding="utf-8")


async def reload(receiver: Spawned, times: int) -> None:
    assert receiver.process is not None
    receiver.process.send_signal(signal.SIGHUP)
    await until(lambda: len(receiver.said("sources.reloaded")) == times)


class Load:
    """Keeps sending rightly signed batches."""

    def __init__(self, receiver: Spawned) -> None:
        self.secret = SECRET
        self.statuses: list[int] = []
        self._receiver = receiver

    async def run(self) -> None:
        async with connected(self._receiver) as client:
            while True:
                await client.send(request(BODY, X_Klavi_Signature=sign(BODY, self.secret.encode())))
                self.statuses.append((await client.answer()).status)

    async def go_on(self) -> None:
        """Return after some more answers."""
        reached = len(self.statuses) + 20
        await until(lambda: len(self.statuses) >= reached)


async def test_a_secret_rotates_under_load(tmp_path: Path) -> None:
    async with spawned(tmp_path) as receiver:
        load = Load(receiver)
        task = asyncio.create_task(load.run())
        await load.go_on()
        configure(tmp_path, SECRET, "new secret")
        await reload(receiver, 1)
        await load.go_on()
        load.secret = "new secret"
        await load.go_on()
        configure(tmp_path, "new secret")
        await reload(receiver, 2)
        await load.go_on()
        task.cancel()
        assert set(load.statuses) == {200}
        async with connected(receiver) as client:
            await client.send(request(BODY))
            assert (await client.answer()).status == 401


async def test_a_configuration_that_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    async with spawned(tmp_path) as receiver:
        (tmp_path / "correio.toml").write_text("nonsense", encoding="utf-8")
        assert receiver.process is not None
        receiver.process.send_signal(signal.SIGHUP)
        await until(lambda: bool(receiver.said("sources.not_reloaded")))
        async with connected(receiver) as client:
            await client.send(request(BODY))
            assert (await client.answer()).status == 200


async def test_a_body_changed_in_one_bit_is_always_refused(tmp_path: Path) -> None:
    async with spawned(tmp_path) as receiver, connected(receiver) as client:
        for bit in range(len(BODY) * 8):
            changed = bytearray(BODY)
            changed[bit // 8] ^= 1 << bit % 8
            await client.send(
                request(bytes(changed), X_Klavi_Signature=sign(BODY, SECRET.encode()))
            )
            assert (await client.answer()).status == 401
