"""What was done to the archive itself, as the log keeps it for ever: one class for each kind of event.

Rule: facts only, never a sentence that somebody has to parse; whoever shows an event words it. A code is never used
again with another meaning, and what a version requires never changes: a change makes a further version.
"""
