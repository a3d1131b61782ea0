"""`python -m pyasd` is the command `pyasd`."""

from pyasd.cli.app import main

main()
