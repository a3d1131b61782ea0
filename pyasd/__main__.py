"""`python -m pyasd` is the command `pyasd`."""

from pyasd.cli import main

main()
