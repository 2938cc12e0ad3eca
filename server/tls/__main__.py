"""Run the process that ends TLS: see `server.tls.gate`."""

from coffer.server.tls.gate import main

main()
