"""Labels: the store of all answers, to which answers are only added."""
