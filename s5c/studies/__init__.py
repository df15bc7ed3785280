"""The queue of all that is published: recipes, which are trainings, and studies of the models that come of them."""
