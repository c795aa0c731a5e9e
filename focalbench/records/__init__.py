"""What a sweep leaves on the disk: each file of a trial and of a sweep has its one reader and its one writer here."""
