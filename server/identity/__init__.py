"""Who is there: accounts, certificates, passwords and tokens, and the user that they prove.

Rule: it says who somebody is, never what they may do: that is `server.access`. A proof is checked by the process that
accepts connections, never by one that parses what strangers send.
"""
