"""PS3.7 and PS3.8: PDUs, association requests and their answers, messages, statuses.

Rule: it knows no archive and no service.
"""
