"""The composition root: builds services, doors and background work, and holds no logic of theirs."""
