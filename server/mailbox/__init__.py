"""What commands ask of the process that writes the archive, and how it answers: events into the log, checkpoints.

Rule: what waits is kept by `keys.mailbox`; here is what needs the log, and waiting for the writer.
"""
