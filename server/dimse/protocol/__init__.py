"""PS3.7 and PS3.8: PDUs, associations asked for and answered, messages, statuses.

Rule: knows no archive and no service.
"""
