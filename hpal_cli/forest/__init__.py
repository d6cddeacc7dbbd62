"""The forest: a model of superpoints that learns in a minute (docs/method.md, "The forest")."""
