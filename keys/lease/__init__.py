"""Leases under an epoch: who may do what only one at a time may do, and who could do it before.

Rule: knows names, epochs and holders, never what a lease is for; no clock decides who may.
"""
