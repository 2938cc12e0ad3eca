"""Who may do what: every door asks `decide` before anything is stored, listed or handed out."""

from coffer.server.access.decision import Action, Policy

__all__ = ["Action", "Policy"]
