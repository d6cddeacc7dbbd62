"""What the three stores share: one root attribute, whole or not there, one writer, the same chunks."""
