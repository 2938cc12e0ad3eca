"""What is known of an archive from outside its folder: verifier keys, the high-water mark, and on which disk they lie.

Rule: it takes nothing for true because it stands in the archive folder, and never makes a mark that somebody did not
ask for: one that is missing may have been taken away.
"""
