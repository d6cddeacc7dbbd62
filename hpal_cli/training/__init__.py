"""Trains a student network on augmented scenes, with labelled points alone or also with a teacher, the running average
of the student."""
