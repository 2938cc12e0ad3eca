"""Worker processes, which receive, seal and send objects, and the process that commits for them (docs/adr/0004)."""
