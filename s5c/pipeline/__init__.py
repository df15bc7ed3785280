"""What the entry points share: from a resolved configuration to a trained model, and from there to reduced ones."""
