"""Select: the best candidates that do not say the same thing twice, within a budget."""
