"""`python3 -m edgec_engine COMMAND BUNDLE`."""

import sys

from edgec_engine.commands import main

sys.exit(main(sys.argv[1:]))
