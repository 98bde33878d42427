import pytest

from console.login import FAILURE_WINDOW, FAILURES, Gate, is_loopback
from shared.config import Config, ConsoleConfig, OperatorConfig, Secret
from shared.errors import ConfigError
from tests.support.clock import ManualClock

ANA = OperatorConfig(name="ana", secrets=(Secret("a" * 20), Secret("b" * 20)))
CONFIG = Config(operator=(ANA,))


def test_every_token_of_an_operator_is_good() -> None:
    gate = Gate(CONFIG, clock=ManualClock(1_000_000))
    assert gate.admit("a" * 20) is ANA
    assert gate.admit("b" * 20) is ANA
    assert gate.admit("a" * 19) is None
    assert gate.admit("é") is None


def test_a_session_ends() -> None:
    clock = ManualClock(1_000_000)
    gate = Gate(CONFIG, clock=clock)
    session = gate.open(ANA)
    assert gate.find(session.id) is session
    clock.move(CONFIG.console.session_lifetime + 1)
    assert gate.find(session.id) is None


def test_a_closed_session_is_gone() -> None:
    gate = Gate(CONFIG, clock=ManualClock(1_000_000))
    session = gate.open(ANA)
    gate.close(session)
    assert gate.find(session.id) is None


def test_guessing_is_cut_short_and_forgiven_later() -> None:
    clock = ManualClock(1_000_000)
    gate = Gate(CONFIG, clock=clock)
    for _ in range(FAILURES):
        assert not gate.closed
        gate.admit("wrong")
    assert gate.closed
    clock.move(FAILURE_WINDOW + 1)
    assert not gate.closed


def test_elsewhere_than_on_loopback_nobody_gets_in_without_a_login() -> None:
    console = ConsoleConfig(host="0.0.0.0")
    with pytest.raises(ConfigError, match=r"console\.host: 0\.0\.0\.0 is no loopback"):
        Gate(Config(console=console), clock=ManualClock(1_000_000))
    assert Gate(
        Config(console=console, operator=(ANA,)), clock=ManualClock(1_000_000)
    ).login_required


@pytest.mark.parametrize(("host"), ["127.0.0.1", "::1", "localhost", "127.0.0.2"])
def test_what_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.com", ""])
def test_what_is_not(host: str) -> None:
    assert not is_loopback(host)
