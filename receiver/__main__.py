"""``python -m receiver``: run the receiver until SIGTERM."""

import sys

from receiver.service import build
from shared.process import main

if __name__ == "__main__":
    sys.exit(main("receiver", build))
