"""Whether the wall clock may be trusted: what a clock in doubt grants, how a doubt begins and how it is ended.

Rule: the only place that decides by which time something is granted. It knows no retention, hold or erasure: who asks
compares the time with his own.
"""
