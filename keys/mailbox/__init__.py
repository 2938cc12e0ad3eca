"""What processes leave for one another in the keyring: events for the log, orders to the writer, officers' records.

Rule: knows no log and no contents of an event; a change and what it leaves here are one transaction of the keyring.
"""
