"""A worker is a process of its own: see `server.workers.worker`."""

from coffer.server.workers.worker import main

main()
