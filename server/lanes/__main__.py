"""A lane is a process of its own: see `server.lanes.process`."""

from coffer.server.lanes.process import main

main()
