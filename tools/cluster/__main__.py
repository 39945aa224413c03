"""`python -m tools.cluster up | down | images`; the Makefile calls it."""

from __future__ import annotations

import argparse
import sys

from tools.cluster import images, lifecycle
from tools.cluster.commands import say
from tools.cluster.failure import ClusterError

_WHAT = {"up": lifecycle.up, "down": lifecycle.down, "images": images.build}


def main() -> int:
    """Do what the command line names; an error is one message."""
    parser = argparse.ArgumentParser(prog="cluster", description=__doc__)
    parser.add_argument("what", choices=_WHAT)
    try:
        _WHAT[parser.parse_args().what]()
    except ClusterError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
