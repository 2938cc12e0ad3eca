"""Brings the log back to a state that can go on: its torn end, damaged segments, diverging histories."""
