"""``python -m console``: the operators' web page, until SIGTERM."""

import sys

from console import service
from shared.process import main

if __name__ == "__main__":
    sys.exit(main("console", service.build))
