"""Who acts, and whether they may: every door and every command asks here before anything is stored, listed, changed or
handed out.

Rule: knows people, peers and actions; never DIMSE, HTTP or storage. `principal` says who, `action` what and on what,
`rules` holds every rule there is, and `decision` answers.
"""
