"""Score: how much each point's label would teach. Every strategy gives [0, 1], larger = label first."""
