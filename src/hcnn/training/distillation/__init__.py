"""Training a student network with a teacher."""
