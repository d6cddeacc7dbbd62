"""Label: answers to the chosen points, from an oracle or a person, in a store that only grows."""
