"""Reading and matching of data sets and identifiers, pure (PS3.3, PS3.4 C.2.2.2, PS3.5).

Rule: bounded and total: no input costs more than its limits allow.
"""
