"""A person chooses between two pictures, one pair after the other, in a browser."""
