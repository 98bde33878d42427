"""Who may use the web page: tokens, sessions, and the marks that tell our page from others'.

A session's cookie is HttpOnly and SameSite=Strict, and every request that changes something must
carry the session's CSRF token in a header, which no other site can read or send.
"""

import hmac
import ipaddress
import secrets
from collections import deque
from collections.abc import Sequence

from msgspec import Struct

from shared.clock import Clock
from shared.config import Config, OperatorConfig
from shared.errors import ConfigError

LOCAL = OperatorConfig(name="local")
"""Whoever sits at this machine, when nobody needs to log in."""

FAILURES = 10
FAILURE_WINDOW = 60.0
"""More wrong tokens than `FAILURES` within so many seconds, and no login is looked at."""

SESSIONS_MAX = 1_000


class Session(Struct):
    """One browser, logged in."""

    id: str
    operator: OperatorConfig
    csrf: str
    ends: float


class Gate:
    """Checks tokens and keeps the sessions, in memory: a restart logs everybody out."""

    def __init__(self, config: Config, *, clock: Clock) -> None:
        """Take the operators of `config`.

        Raises:
            ConfigError: the page would be open to others without a login.
        """
        self.login_required = bool(config.operator)
        if not self.login_required and not is_loopback(config.console.host):
            raise ConfigError(
                f"console.host: {config.console.host} is no loopback address, so at least one "
                "[[operator]] must be configured"
            )
        self._operators: Sequence[OperatorConfig] = config.operator
        self._lifetime = config.console.session_lifetime
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._failures: deque[float] = deque(maxlen=FAILURES)

    @property
    def closed(self) -> bool:
        """Whether so many logins failed of late that none is looked at."""
        full = len(self._failures) == FAILURES
        return full and self._clock.monotonic() - self._failures[0] < FAILURE_WINDOW

    def admit(self, token: str) -> OperatorConfig | None:
        """Whose token this is; every token is compared, each in constant time."""
        given = token.encode()
        found = None
        for operator in self._operators:
            for secret in operator.secrets:
                if hmac.compare_digest(secret.reveal().encode(), given):
                    found = operator
        if found is None:
            self._failures.append(self._clock.monotonic())
        return found

    def open(self, operator: OperatorConfig) -> Session:
        """Begin a session."""
        now = self._clock.monotonic()
        self._sessions = {k: one for k, one in self._sessions.items() if one.ends > now}
        while len(self._sessions) >= SESSIONS_MAX:
            self._sessions.pop(next(iter(self._sessions)))
        session = Session(
            secrets.token_urlsafe(32), operator, secrets.token_urlsafe(32), now + self._lifetime
        )
        self._sessions[session.id] = session
        return session

    def find(self, session_id: str) -> Session | None:
        """The session of a cookie, unless it has ended."""
        session = self._sessions.get(session_id)
        return session if session and session.ends > self._clock.monotonic() else None

    def close(self, session: Session) -> None:
        """End a session."""
        self._sessions.pop(session.id, None)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
