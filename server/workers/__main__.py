"""Run one worker process: see `server.workers.worker`."""

from coffer.server.workers.worker import main

main()
