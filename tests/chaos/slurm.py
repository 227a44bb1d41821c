"""A study that runs to its end on a real Slurm while its workers, nodes and daemons break.

`python tests/chaos/slurm.py --seed 1 [--trials 200] [--faults 60] [--workers 8] [--json]` starts a
development cluster and a PostgreSQL in temporary folders, submits a study by the command line, does
at least so many faults by the seed's schedule, attaches workers as a user would, and ends all that
it started. Exit code 1 where a trial was lost or doubled, or a sum does not agree.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

if __name__ == "__main__":  # not this folder, where modules have names that others have too
    sys.path[0] = str(Path(__file__).parents[1])
    sys.path.insert(1, str(Path(__file__).parents[2]))

from chaos.slurm_run import Plan, run
from chaos.stage import Stage


@contextmanager
def opened(nodes: int) -> Iterator[Stage]:
    """A stage that is closed in any case, also by Ctrl-C and SIGTERM."""
    stage = Stage(nodes=nodes)
    try:
        stage.open()
        yield stage
    finally:
        before = {
            number: signal.signal(number, signal.SIG_IGN)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        stage.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: Sequence[str]) -> int:
    """Runs by the flags, prints JSON; 1 where something was violated."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--nodes", type=int, default=5, help="two workers fill a node")
    parser.add_argument("--deadline", type=float, default=330, help="seconds for the study")
    parser.add_argument("--timeline", type=Path, help="a file for the timeline, besides the JSON")
    parser.add_argument("--keep", type=Path, help="a folder for the study's files and logs")
    parser.add_argument("--json", action="store_true", help="timeline and both ledgers too")
    given = parser.parse_args(argv)

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    signal.signal(signal.SIGTERM, interrupt)
    plan = Plan(
        seed=given.seed,
        trials=given.trials,
        faults=given.faults,
        workers=given.workers,
        nodes=given.nodes,
        deadline_s=given.deadline,
    )
    try:
        with opened(plan.nodes) as stage:
            result = run(stage, plan)
            if given.keep is not None:
                stage.keep(given.keep)
    except KeyboardInterrupt as interrupted:
        print(f"interrupted {interrupted}; everything that was started is ended", file=sys.stderr)
        return 130
    if given.timeline is not None:
        given.timeline.write_text(json.dumps(result["timeline"], indent=1) + "\n")
    if not given.json:
        del result["timeline"]
        if not result["violations"]:
            del result["both_sides"]
    print(json.dumps(result, indent=1))
    return 1 if result["violations"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
