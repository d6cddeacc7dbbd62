"""Labels: the store of all answers, which only grows."""
