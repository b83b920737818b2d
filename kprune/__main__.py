"""The command `kprune` as `python -m kprune`."""

import sys

from kprune.cli import main

sys.exit(main())
