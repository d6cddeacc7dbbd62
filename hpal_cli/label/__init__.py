"""Asks a person or an oracle for the classes of the chosen points, and reads the answers from files of several
kinds."""
