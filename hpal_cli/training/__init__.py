"""Training: a student on augmented rooms, with labelled points alone or with its own average as teacher."""
