"""Trains a student network on augmented scenes, from labelled points alone or also from pseudo-labels of a teacher,
which is a running average of the student."""
