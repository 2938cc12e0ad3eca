"""What a process leaves for the one that writes the archive: events to record, a checkpoint to sign."""
