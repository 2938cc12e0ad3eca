"""What must be kept: which studies are selected, which holds are on them, how long the retention keeps them."""
