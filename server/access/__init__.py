"""Who acts, and whether they may: every door and every command asks here before anything is stored, listed or handed
out.

Rule: knows people, peers and actions; never DIMSE, HTTP or storage.
"""

from coffer.server.access.decision import Action, Policy, policy_of

__all__ = ["Action", "Policy", "policy_of"]
