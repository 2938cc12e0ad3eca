"""What a process leaves for the writer of the archive: events to record, a checkpoint to sign."""
