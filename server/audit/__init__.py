"""The audit trail: who did what with which objects, durable before anything leaves the archive.

Rule: acts come in by one way, `auditor.Auditor`, whatever the door, and are kept as sealed events in the archive's own
log (`archive.events.accesses`): chain, signatures, backups and the mark outside the folder cover them like objects. How
PS3.15 A.5 words them is decided when they are shown, in `message`.
"""
