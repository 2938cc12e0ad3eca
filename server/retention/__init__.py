"""What must be kept: which studies are meant, which holds are on them, how long the rule keeps them."""
