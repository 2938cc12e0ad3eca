"""Brings the log back to a state that can be appended to: its torn end, damaged segments, diverging histories."""
