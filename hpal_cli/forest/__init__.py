"""The forest: a model that classifies superpoints and is trained in a minute (docs/method.md, "The forest")."""
