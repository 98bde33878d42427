"""What befalls the world at moments of its own: processes, clocks, broker, store, endpoints."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from shared.broker import topology
from tests.chaos.simulated import operators
from tests.chaos.simulated.loop import Life
from tests.chaos.simulated.platter import platter

if TYPE_CHECKING:
    from tests.chaos.simulated.world import SimWorld

SKEW = 60_000
"""Milliseconds that a clock jumps, at the most."""

Strike = Callable[["SimWorld"], None]


def strike(world: "SimWorld", kind: str) -> None:
    """Let it happen now."""
    STRIKES[kind][1](world)


def _life(world: "SimWorld") -> Life | None:
    """Some process, if it runs."""
    life: Life | None = world.weather.one_of(world.places).life
    return life


def _kill(world: "SimWorld") -> None:
    world.kill(world.weather.one_of(world.places))


def _kill_at_a_step(world: "SimWorld") -> None:
    life = _life(world)
    if life is not None:
        life.steps_left = world.weather.chance.randrange(400)


def _power_loss(world: "SimWorld") -> None:
    def end() -> None:
        for place in world.places:
            world.kill(place)
        for life in world.lives:  # whoever works at a console
            if life.name == operators.OPERATOR and not life.dead:
                life.die()

    platter().lose_power(world.weather.chance, end)


def _stop(world: "SimWorld") -> None:
    world.stop(world.weather.one_of(world.places))


def _stop_while_the_store_is_away(world: "SimWorld") -> None:
    seconds = world.weather.between(0.2, 5)
    world.disk.away_until = world.loop.time() + seconds + 1
    for one in world.places:
        if one.role != "receiver":
            world.loop.later(seconds, world.stop, one)


def _freeze_process(world: "SimWorld") -> None:
    life = _life(world)
    if life is not None:
        life.stop_for(world.weather.between(0.2, 12))
        _share_leases(world, life)


def _clock_jumps(world: "SimWorld") -> None:
    life = _life(world)
    if life is not None:
        life.skew += world.weather.chance.randrange(-SKEW, SKEW)
        _share_leases(world, life)


def _share_leases(world: "SimWorld", life: Life) -> None:
    """A lease is only as good as the clock of its holder: it may run out in good faith."""
    if life.name.startswith("callbacks"):
        for endpoint in world.endpoints.values():
            endpoint.exclusive = False


def _broker_restarts(world: "SimWorld") -> None:
    world.broker.restart(world.weather.between(0.2, 5))


def _broker_freezes(world: "SimWorld") -> None:
    world.broker.freeze(world.weather.between(0.4, 10))


def _broker_alarm(world: "SimWorld") -> None:
    world.broker.alarm_until = world.loop.time() + world.weather.between(0.4, 10)


def _connections_cut(world: "SimWorld") -> None:
    for connection in list(world.broker.connections):
        if world.weather.chance.random() < 0.5:
            connection.cut()


def _consumer_cancelled(world: "SimWorld") -> None:
    _lose_consumers(world, tell=True)


def _consumer_lost_silently(world: "SimWorld") -> None:
    _lose_consumers(world, tell=False)


def _lose_consumers(world: "SimWorld", *, tell: bool) -> None:
    for connection in world.broker.connections:
        for channel in connection.channels:
            if channel.consuming is not None and world.weather.chance.random() < 0.5:
                channel.cancel_consumer(tell=tell)


def _binding_lost(world: "SimWorld") -> None:
    exchange = world.weather.one_of([topology.EVENTS, topology.CALLBACKS])
    world.broker.bindings.discard((exchange, exchange))


def _callback_messages_lost(world: "SimWorld") -> None:
    world.broker.lose_callback_messages()


def _store_away(world: "SimWorld") -> None:
    world.disk.away_until = world.loop.time() + world.weather.between(0.2, 5)


def _store_damaged(world: "SimWorld") -> None:
    world.disk.damaged_until = world.loop.time() + world.weather.between(0.2, 5)


def _store_full(world: "SimWorld") -> None:
    world.disk.store_full_until = world.loop.time() + world.weather.between(0.2, 5)


def _disk_full(world: "SimWorld") -> None:
    world.disk.full_until = world.loop.time() + world.weather.between(0.2, 5)


def _endpoint_gone(world: "SimWorld") -> None:
    some = world.weather.one_of(list(world.endpoints.values()))
    some.gone_until = world.loop.time() + world.weather.between(0.2, 5)


def _endpoint_down(world: "SimWorld") -> None:
    some = world.weather.one_of(list(world.endpoints.values()))
    some.down_until = world.loop.time() + world.weather.between(0.2, 5)


def _operator_replays_quarantine(world: "SimWorld") -> None:
    operators.act(world, operators.replay_quarantine)


def _operator_replays_deliveries(world: "SimWorld") -> None:
    operators.act(world, operators.replay_deliveries)


def _operator_cancels_deliveries(world: "SimWorld") -> None:
    operators.act(world, operators.cancel_deliveries(world))


def _operator_pauses_an_endpoint(world: "SimWorld") -> None:
    operators.act(world, operators.pause_endpoint(world))


STRIKES: dict[str, tuple[float, Strike]] = {
    "kill": (3.0, _kill),
    "kill at a step": (3.0, _kill_at_a_step),
    "power loss": (2.0, _power_loss),
    "stop": (1.5, _stop),
    "stop while the store is away": (1.5, _stop_while_the_store_is_away),
    "freeze process": (1.0, _freeze_process),
    "clock jumps": (1.0, _clock_jumps),
    "broker restarts": (1.0, _broker_restarts),
    "broker freezes": (1.0, _broker_freezes),
    "broker alarm": (1.0, _broker_alarm),
    "connections cut": (1.5, _connections_cut),
    "consumer cancelled": (1.0, _consumer_cancelled),
    "consumer lost silently": (0.7, _consumer_lost_silently),
    "binding lost": (1.0, _binding_lost),
    "callback messages lost": (1.0, _callback_messages_lost),
    "store away": (1.0, _store_away),
    "store full": (0.7, _store_full),
    "store damaged": (0.7, _store_damaged),
    "disk full": (1.0, _disk_full),
    "endpoint gone": (0.5, _endpoint_gone),
    "endpoint down": (1.0, _endpoint_down),
    "operator replays quarantine": (1.0, _operator_replays_quarantine),
    "operator replays deliveries": (0.5, _operator_replays_deliveries),
    "operator cancels deliveries": (0.5, _operator_cancels_deliveries),
    "operator pauses an endpoint": (0.7, _operator_pauses_an_endpoint),
}
"""What happens → how likely it is to be chosen, against the others, and how it is done."""
