"""A trained network taken to where it runs: what a step is made of (`plan`), weights of few bits, a file a format."""
