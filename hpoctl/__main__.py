"""`python -m hpoctl` is `hpoctl`."""

from hpoctl.cli import main

main()
