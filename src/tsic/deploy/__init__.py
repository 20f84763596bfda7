"""What ships: scoring, prediction, export and benchmark of a student, without training code."""
