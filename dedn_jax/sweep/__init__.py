"""Many trainings in one program: models that differ in their seed, for every point of a grid."""
