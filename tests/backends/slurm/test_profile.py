"""A site in the words of a sweep file."""

from __future__ import annotations

from hpoctl.backends.slurm.profile import lines, usual
from hpoctl.limits import Association, Limits, Nodes, Partition

CPU = Partition(name="cpu", default=True, max_minutes=600)
SITE = Limits(
    partitions=(CPU, Partition(name="gpu"), Partition(name="theirs", allow_accounts=("other",))),
    nodes=(
        Nodes(partition="cpu", count=9, cpus=64, mem_mb=1),
        Nodes(partition="gpu", count=2, cpus=64, mem_mb=1, gpus={"T4": 8, "A100": 4}),
        Nodes(partition="theirs", count=2, cpus=64, mem_mb=1, gpus={"H100": 4}),
    ),
    associations=(Association(account="b"), Association(account="a")),
)


def test_a_partition_with_gpus_that_is_ours_comes_before_the_default_one() -> None:
    assert list(lines(SITE)) == [
        "  partition: gpu   # any time; there are cpu, gpu, theirs",
        "  account: a   # yours: a, b",
        "  gpus: T4:1   # a node has 8 T4 or 4 A100; leave it out for work without a GPU",
    ]


def test_a_site_without_gpus_gets_its_default_partition() -> None:
    site = Limits(partitions=(Partition(name="x"), CPU), nodes=SITE.nodes[:1])
    assert usual(site) == CPU
    assert list(lines(site))[-1].startswith("  # gpus")


def test_no_cluster_gives_no_lines() -> None:
    assert list(lines(Limits())) == []
