"""Destroying a study's keys: approving, doing, finishing, and certifying that it was done."""
