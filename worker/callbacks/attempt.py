"""One attempt: a signed POST, bounded in time, bytes and places it may go to."""

import asyncio
import contextlib
import random
import ssl
from types import TracebackType
from typing import Final, Self

import aiohttp
from msgspec import Struct
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_result,
    stop_after_attempt,
    wait_random_exponential,
)

from shared.clock import Clock
from shared.config import CallbacksConfig
from shared.logs import get_logger
from shared.store.rows import Delivery
from shared.targets import Target
from worker.callbacks.guard import (
    ForbiddenAddressError,
    GuardedResolver,
    Lookup,
    check_literal,
    guarded_socket,
    system_lookup,
)
from worker.callbacks.outcomes import (
    OK,
    FailureKind,
    Outcome,
    PermanentFailure,
    RetryableFailure,
    judge,
)
from worker.callbacks.payload import body_of
from worker.callbacks.retry_after import read_retry_after
from worker.callbacks.signing import sign

log = get_logger(__name__)

DNS_TTL: Final = 10
"""Seconds for which a resolved name is used again."""

KEEP_ALIVE: Final = 30.0
"""Seconds for which an idle connection stays open."""

SHORT: Final = 1.0
"""Seconds within which a fault must show to be worth a second try at once; also how long the
first bytes of a failing answer are waited for."""

FIRST_WAIT: Final = 0.2
"""Seconds before the first of those tries, at the most."""

BRIEF: Final = (FailureKind.CONNECT, FailureKind.CUT_OFF)
"""Faults that may be over in a moment."""

USER_AGENT: Final = "Correio/0.1 (Standard-Webhooks/1.0.0)"


class Call(Struct, frozen=True):
    """An attempt that has ended; times in Unix milliseconds and milliseconds."""

    outcome: Outcome
    at: int
    duration_ms: int


class Tried(Struct, frozen=True):
    """What came of one call, and whether trying again at once makes sense."""

    outcome: Outcome
    again: bool = False


class Caller:
    """Makes attempts over two sets of keep-alive connections.

    Endpoints that may reach private networks share one, all others share the other: an endpoint
    without that right can never be handed a connection that was opened under it.

    An attempt is one call. When its connection cannot be made, or breaks before a byte of
    answer, within a moment, the call is tried again up to ``callbacks.quick_retries`` times
    within the same attempt and the same time limit; it stays one attempt, since nobody answered.
    """

    def __init__(
        self, config: CallbacksConfig, *, clock: Clock, lookup: Lookup = system_lookup
    ) -> None:
        self._config = config
        self._clock = clock
        self._lookup = lookup
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._timeout = aiohttp.ClientTimeout(
            total=None,  # `attempt` bounds the whole
            connect=config.connect_timeout,
            sock_connect=config.connect_timeout,
        )

    async def __aenter__(self) -> Self:
        tls = ssl.create_default_context()
        self._sessions = {allow: self._session(tls, allow_private=allow) for allow in (True, False)}
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for session in self._sessions.values():
            await session.close()

    def _session(self, tls: ssl.SSLContext, *, allow_private: bool) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # the lanes bound what is in flight
                ssl=tls,
                resolver=GuardedResolver(allow_private=allow_private, lookup=self._lookup),
                socket_factory=guarded_socket(allow_private=allow_private),
                ttl_dns_cache=DNS_TTL,
                keepalive_timeout=KEEP_ALIVE,
            ),
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers={"user-agent": USER_AGENT, "accept-encoding": "identity"},
        )

    async def attempt(self, target: Target, delivery: Delivery) -> Call:
        """Attempt the delivery; whatever happens is an outcome, nothing is raised."""
        at, begun = self._clock.now(), self._clock.monotonic()
        try:
            async with asyncio.timeout(self._config.attempt_timeout):
                outcome = await self._try(target, delivery)
        except TimeoutError:
            outcome = self._too_slow()
        except Exception as error:
            log.exception("attempt.broke", delivery_id=delivery.id)
            outcome = RetryableFailure(FailureKind.INTERNAL, f"internal: {type(error).__name__}")
        duration = self._clock.monotonic() - begun
        return Call(outcome, at, max(0, round(duration * 1000)))

    async def _try(self, target: Target, delivery: Delivery) -> Outcome:
        try:
            check_literal(target.url, allow_private=target.allow_private)
        except ForbiddenAddressError as error:
            return PermanentFailure(FailureKind.REFUSED_ADDRESS, str(error))
        body = body_of(delivery)
        first = await self._try_once(target, delivery, body)
        if not first.again or not self._config.quick_retries:
            return first.outcome
        await self._clock.sleep(random.uniform(0, FIRST_WAIT))  # noqa: S311 - spreads load
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._config.quick_retries),
            wait=wait_random_exponential(multiplier=2 * FIRST_WAIT, max=1.0),
            retry=retry_if_result(_is_worth_another),
            retry_error_callback=_last_result,
            sleep=self._clock.sleep,
        )
        last: Tried = await retrying(self._try_once, target, delivery, body)
        return last.outcome

    async def _try_once(self, target: Target, delivery: Delivery, body: bytes) -> "Tried":
        begun = self._clock.monotonic()
        try:
            return Tried(await self._call(target, delivery, body))
        except (aiohttp.ClientError, OSError) as error:
            outcome = self._fault(error)
        quick = self._clock.monotonic() - begun < SHORT
        return Tried(outcome, again=quick and outcome.kind in BRIEF)

    async def _call(self, target: Target, delivery: Delivery, body: bytes) -> Outcome:
        now = self._clock.now()
        headers = {
            **target.headers,
            "content-type": "application/json",
            **sign(target.keys, webhook_id=delivery.id, timestamp=now // 1000, body=body),
        }
        if delivery.traceparent:
            headers["traceparent"] = delivery.traceparent
        session = self._sessions[target.allow_private]
        async with session.post(
            target.url, data=body, headers=headers, allow_redirects=False
        ) as response:
            if response.status in OK:
                return await self._read_success(response)
            return judge(
                response.status,
                answer=await self._read_start(response),
                retry_after=read_retry_after(response.headers.get("retry-after"), now=now),
            )

    async def _read_success(self, response: aiohttp.ClientResponse) -> Outcome:
        """A success counts once its answer has been read to the end."""
        most = self._config.response_max_bytes
        size = response.content_length or 0
        start = b""
        if size <= most:
            size = 0
            try:
                async for chunk in response.content.iter_any():
                    size += len(chunk)
                    start = start or chunk
                    if size > most:
                        break
            except aiohttp.ClientError:
                return self._failed(
                    FailureKind.CUT_OFF, "the answer broke off", response.status, start
                )
        if size > most:
            response.close()
            error = f"the answer is larger than {most} bytes"
            return self._failed(FailureKind.OVERSIZED, error, response.status, start)
        return judge(response.status)

    async def _read_start(self, response: aiohttp.ClientResponse) -> bytes:
        """The first bytes of a failing answer, as far as they come within a moment."""
        most, kept = self._config.answer_kept_bytes, b""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):  # the status decides
            async with asyncio.timeout(SHORT):
                while len(kept) < most and (chunk := await response.content.read(most - len(kept))):
                    kept += chunk
        return kept

    def _failed(
        self, kind: FailureKind, error: str, status: int, answer: bytes
    ) -> RetryableFailure:
        kept = answer[: self._config.answer_kept_bytes]
        return RetryableFailure(kind, error, status=status, answer=kept)

    def _too_slow(self) -> RetryableFailure:
        limit = self._config.attempt_timeout
        return RetryableFailure(FailureKind.TIMEOUT, f"no whole answer within {limit:g} s")

    def _fault(self, error: aiohttp.ClientError | OSError) -> RetryableFailure:  # noqa: PLR0911 - one line for each kind of fault
        """What a fault of the connection is called."""
        cause = getattr(error, "os_error", None)
        match error:
            case ForbiddenAddressError():
                return RetryableFailure(FailureKind.REFUSED_ADDRESS, str(error))
            case aiohttp.ClientConnectorError() if isinstance(cause, ForbiddenAddressError):
                return RetryableFailure(FailureKind.REFUSED_ADDRESS, str(cause))
            case aiohttp.ClientConnectorDNSError():
                return RetryableFailure(FailureKind.DNS, "the name does not resolve")
            case aiohttp.ClientConnectorCertificateError(certificate_error=fault):
                reason = getattr(fault, "verify_message", "") or type(fault).__name__
                return RetryableFailure(FailureKind.TLS, f"certificate: {reason}")
            case aiohttp.ClientSSLError():
                reason = getattr(cause, "reason", None) or type(cause).__name__
                return RetryableFailure(FailureKind.TLS, f"TLS: {reason}")
            case aiohttp.ConnectionTimeoutError():
                limit = self._config.connect_timeout
                return RetryableFailure(FailureKind.CONNECT, f"no connection within {limit:g} s")
            case TimeoutError():
                return self._too_slow()
            case aiohttp.ClientConnectorError():
                reason = getattr(cause, "strerror", None) or type(cause).__name__
                return RetryableFailure(FailureKind.CONNECT, f"no connection: {reason}")
            case aiohttp.ClientConnectionError() | aiohttp.ClientPayloadError() | ConnectionError():
                return RetryableFailure(FailureKind.CUT_OFF, "the connection broke off")
            case _:
                return RetryableFailure(
                    FailureKind.MALFORMED, f"no HTTP answer: {type(error).__name__}"
                )


def _is_worth_another(tried: Tried) -> bool:
    return tried.again


def _last_result(state: RetryCallState) -> Tried:
    if state.outcome is None:
        raise RuntimeError("tenacity gave up before the first call")
    tried: Tried = state.outcome.result()
    return tried
