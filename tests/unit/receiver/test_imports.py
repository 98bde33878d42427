import subprocess
import sys

_LOOK = """
import sys
import receiver.service
print(*sorted(name for name in sys.modules if name.startswith(("shared.domain", "shared.store"))))
"""


def test_the_receiver_never_loads_what_events_mean() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOOK], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == [
        "shared.store", "shared.store.checkpoints", "shared.store.database",
    ]  # fmt: skip
