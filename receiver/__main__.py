"""``python -m receiver``: run the receiver until SIGTERM."""

import sys

from receiver.memory import return_large_blocks
from receiver.service import build
from shared.process import main

if __name__ == "__main__":
    return_large_blocks()
    sys.exit(main("receiver", build))
