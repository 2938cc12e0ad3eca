"""Who acts, and whether they may: every door and every command asks here before anything is stored, listed, changed or
returned.

Rule: knows people, peers and actions; never DIMSE, HTTP or storage. `principal` says who acts, `action` what is done
and to what, `rules` holds every rule, and `decision` applies them.
"""
