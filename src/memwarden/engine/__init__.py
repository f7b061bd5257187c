"""The pipeline at work: it runs the stages, which do not know each other, and passes their values on."""
