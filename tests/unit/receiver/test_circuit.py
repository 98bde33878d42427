from receiver.circuit import Circuit


def opened(at: float) -> Circuit:
    circuit = Circuit(failures=3, interval=0.5)
    for _ in range(3):
        circuit.failed(at)
    return circuit


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    circuit = Circuit(failures=3, interval=0.5)
    circuit.failed(0.0)
    circuit.failed(0.0)
    circuit.succeeded()
    circuit.failed(0.0)
    circuit.failed(0.0)
    assert not circuit.open
    assert circuit.allows(0.0)
    circuit.failed(0.0)
    assert circuit.open


def test_open_it_allows_one_attempt_per_interval() -> None:
    circuit = opened(at=10.0)
    assert not circuit.allows(10.4)
    assert circuit.allows(10.5)
    assert not circuit.allows(10.6)
    assert circuit.allows(11.1)


def test_a_failed_attempt_keeps_it_open_and_a_success_closes_it() -> None:
    circuit = opened(at=10.0)
    circuit.failed(12.0)
    assert not circuit.allows(12.1)
    circuit.succeeded()
    assert not circuit.open
    assert circuit.allows(12.2)
